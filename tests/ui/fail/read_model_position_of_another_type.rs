use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    #[read_model(position)]
    as_of: i32,
}

fn main() {}
