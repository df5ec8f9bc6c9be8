use consumer::prelude::*;

struct Money {
    cents: i64,
}

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    balance: Money,
    limit: Option<Money>,
}

fn main() {}
