use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "accounts")]
struct Account {
    #[read_model(key)]
    id: String,
    cents: i64,
}

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "Transfer")]
struct Transferred {
    from: String,
    to: String,
}

struct Accounts;

#[consumer(name = "accounts", read_model = Account)]
impl Accounts {
    #[on(key = event.from)]
    fn debited(&self, _account: &mut Account, event: Transferred) {
        drop(event);
    }

    #[on(key = event.to)]
    fn credited(&self, _account: &mut Account, event: Transferred) {
        drop(event);
    }

    #[on]
    fn noted(&self, _account: &mut Account, _event: Transferred) {}
}

fn main() {}
