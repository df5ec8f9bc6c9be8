use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key, index)]
    id: String,
    #[read_model(position, index)]
    as_of: i64,
}

fn main() {}
