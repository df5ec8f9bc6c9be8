use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    a: i64,
    #[read_model(key)]
    b: i64,
    #[read_model(key)]
    c: i64,
    #[read_model(key)]
    d: i64,
    #[read_model(key)]
    e: i64,
    #[read_model(key)]
    f: i64,
    #[read_model(key)]
    g: i64,
    #[read_model(key)]
    h: i64,
    #[read_model(key)]
    i: i64,
    email: String,
}

fn main() {}
