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
    fn registered(&self, from: &mut User, to: &mut User, event: Registered) {}
}

fn main() {}
