use consumer::prelude::*;
use consumer::sqlx::FromRow;

#[derive(ReadModel, FromRow)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

fn main() {}
