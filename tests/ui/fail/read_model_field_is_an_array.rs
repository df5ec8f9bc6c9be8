use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    tags: Vec<String>,
    scores: Option<[i64; 3]>,
    hash: [u8; 32],
}

fn main() {}
