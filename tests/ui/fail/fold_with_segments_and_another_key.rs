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

#[consumer(name = "users", read_model = User, segments = 8)]
impl Users {
    #[on(key = event.email)]
    fn registered(&self, user: &mut User, event: Registered) {}

    #[on("Deleted", key = aggregate_id)]
    fn deleted(&self, user: &mut Option<User>, event: &PersistedEvent) {}
}

fn main() {}
