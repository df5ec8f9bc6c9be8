use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users", crate = consumer)]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

fn main() {}
