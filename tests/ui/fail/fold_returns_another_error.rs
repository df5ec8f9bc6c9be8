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

struct Failed;

#[consumer(name = "users", read_model = User)]
impl Users {
    #[on]
    fn registered(&self, user: &mut User, event: Registered) -> Result<(), Failed> {
        user.email = event.email;
        Ok(())
    }

    #[on("Imported")]
    fn imported(&self, _event: &PersistedEvent) -> Result<User, Failed> {
        Err(Failed)
    }
}

fn main() {}
