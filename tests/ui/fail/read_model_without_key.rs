use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    id: String,
    email: String,
}

struct Users;

// The only message is the one about the key.
#[consumer(name = "users", aggregates = ["User"], read_model = User)]
impl Users {
    #[on("Registered")]
    fn registered(event: &PersistedEvent) -> User {
        User {
            id: event.aggregate_id.clone(),
            email: String::new(),
        }
    }
}

fn main() {}
