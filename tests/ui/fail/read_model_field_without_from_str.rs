use consumer::prelude::*;

struct Money {
    cents: i64,
}

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    #[read_model(sql_type = "numeric(20, 2)")]
    balance: Money,
}

fn main() {}
