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

#[consumer(name = "users", aggregates = ["User"], read_model = User)]
impl Users {
    #[on]
    fn registered(&self, user: &mut User, event: Registered) {}

    #[on(key = event.payload.email)]
    fn referred(&self, user: &mut User, event: Envelope<'_, Registered>) {}
}

fn main() {}
