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
    balance: i64,
}

#[consumer(name = "users", read_model = User)]
impl Users {
    #[on]
    fn registered(&self, account: &mut Account, event: Registered) {
        account.balance = event.number;
    }

    #[on("Deleted")]
    fn deleted(&self, account: &mut Option<Account>, _event: &PersistedEvent) {
        *account = None;
    }
}

fn main() {}
