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

struct Account {
    id: String,
}

#[consumer(name = "users", read_model = Account)]
impl Users {
    #[on]
    fn registered(&self, event: Envelope<'_, Registered>) -> Account {
        Account {
            id: event.aggregate_id.clone(),
        }
    }

    #[on(key = event.aggregate_id)]
    fn deleted(account: &mut Option<Account>, event: Envelope<'_, Deleted>) {
        *account = None;
    }
}

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "User")]
struct Deleted {}

fn main() {}
