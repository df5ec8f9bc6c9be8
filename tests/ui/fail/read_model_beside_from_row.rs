use consumer::prelude::*;
use consumer::sqlx::{self, FromRow};

#[derive(ReadModel, FromRow)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

// What it says does not depend on the order, and a comment derives nothing.
#[derive(
    Debug,
    sqlx::FromRow, // FromRow
    consumer::ReadModel,
)]
#[read_model(table = "people")]
struct Person {
    #[read_model(key)]
    id: String,
    email: String,
}

#[derive(ReadModel /* FromRow */)]
#[derive(FromRow)]
#[read_model(table = "guests")]
struct Guest {
    #[read_model(key)]
    id: String,
    email: String,
}

#[derive(ReadModel, /* not FromRow */ Debug)]
#[read_model(table = "customers")]
struct Customer {
    #[read_model(key)]
    id: String,
    email: String,
}

fn read<'r, T: FromRow<'r, sqlx::sqlite::SqliteRow>>() {}

fn main() {
    read::<User>();
    read::<Person>();
    read::<Guest>();
    read::<Customer>();
}
