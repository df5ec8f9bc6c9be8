use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "UserList")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

#[derive(ReadModel)]
#[read_model(table = "shop.public.users")]
struct Customer {
    #[read_model(key)]
    id: String,
    email: String,
}

fn main() {}
