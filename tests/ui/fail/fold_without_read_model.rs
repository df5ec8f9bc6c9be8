use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "User")]
struct Registered {
    email: String,
    number: i64,
}

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on]
    fn registered(&self, user: &mut User, event: Registered) {
        user.email = event.email;
    }

    #[on("Deleted")]
    fn deleted(&self, _event: &PersistedEvent) -> Option<User> {
        None
    }
}

fn main() {}
