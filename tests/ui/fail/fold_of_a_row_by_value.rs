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

#[consumer(name = "users", read_model = User)]
impl Users {
    #[on]
    fn registered(&self, user: User, event: Registered) -> User {
        user
    }

    #[on("Renamed")]
    fn renamed(&self, user: &User, _event: &PersistedEvent) {}

    #[on("Deleted")]
    fn deleted(&self, user: Option<User>, _event: &PersistedEvent) {}
}

fn main() {}
