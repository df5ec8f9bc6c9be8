use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users", table = "people")]
struct User {
    #[read_model(key)]
    #[read_model(key)]
    id: String,
    email: String,
}

fn main() {}
