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
    #[on(key = event.number)]
    fn registered(&self, user: &mut User, event: Registered) {}

    #[on("Imported", key = vec![event.global_position])]
    fn imported(&self, user: &mut User, event: &PersistedEvent) {}

    #[on("Deleted", key = (event.aggregate_id, event.global_position))]
    fn deleted(&self, user: &mut User, event: &PersistedEvent) {}
}

fn main() {}
