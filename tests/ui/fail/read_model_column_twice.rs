use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
    #[read_model(rename = "email")]
    address: String,
}

fn main() {}
