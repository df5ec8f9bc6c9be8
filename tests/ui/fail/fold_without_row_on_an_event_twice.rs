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
}

struct Users;

#[consumer(name = "users", read_model = User)]
impl Users {
    #[on(key = "all")]
    fn counted(&self, _user: &mut Option<User>, _event: Registered) {}

    #[on]
    fn ignored(&self, _event: Registered) {}
}

fn main() {}
