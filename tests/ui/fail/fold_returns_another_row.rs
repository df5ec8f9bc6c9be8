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

struct Account;

#[consumer(name = "users", read_model = User)]
impl Users {
    #[on]
    fn registered(&self, _event: Registered) -> Account {
        Account
    }

    #[on("Deleted")]
    fn deleted(&self, _event: &PersistedEvent) -> Result<Option<Account>, HandlerError> {
        Ok(None)
    }
}

fn main() {}
