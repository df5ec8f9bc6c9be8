use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    #[read_model(position)]
    as_of: i64,
    #[read_model(position)]
    changed_at: i64,
}

fn main() {}
