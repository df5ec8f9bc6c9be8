use consumer::prelude::*;

struct UserId(String);

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: UserId,
    #[read_model(key)]
    tenant: UserId,
    email: String,
}

fn main() {}
