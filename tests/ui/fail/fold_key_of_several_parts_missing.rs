use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "balances")]
struct Balance {
    #[read_model(key)]
    account: String,
    #[read_model(key)]
    currency: String,
    amount: i64,
}

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "Account")]
struct Paid {
    currency: String,
    amount: i64,
}

struct Balances;

#[consumer(name = "balances", read_model = Balance)]
impl Balances {
    #[on]
    fn paid(&self, balance: &mut Balance, event: Paid) {
        balance.amount += event.amount;
    }

    #[on("Closed", key = aggregate_id)]
    fn closed(&self, balance: &mut Balance, _event: &PersistedEvent) {
        balance.amount = 0;
    }

    #[on("Deleted", key = (aggregate_id, event.global_position))]
    fn deleted(&self, balance: &mut Option<Balance>, event: &PersistedEvent) {
        *balance = None;
    }

    #[on("Renamed", key = (aggregate_id,))]
    fn renamed(&self, balance: &mut Option<Balance>, event: &PersistedEvent) {
        *balance = None;
    }
}

fn main() {}
