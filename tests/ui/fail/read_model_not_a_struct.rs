use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
enum User {
    Active,
}

#[derive(ReadModel)]
#[read_model(table = "people")]
union Person {
    id: i64,
    other: i64,
}

#[derive(ReadModel)]
#[read_model(table = "customers")]
struct Customer(String);

#[derive(ReadModel)]
#[read_model(table = "guests")]
struct Guest;

fn main() {}
