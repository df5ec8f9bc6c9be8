use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = users)]
struct User {
    #[read_model(key = true)]
    id: String,
    #[read_model(rename)]
    email: String,
    #[read_model]
    name: String,
}

fn main() {}
