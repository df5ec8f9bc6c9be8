use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key, position)]
    id: i64,
    email: String,
}

fn main() {}
