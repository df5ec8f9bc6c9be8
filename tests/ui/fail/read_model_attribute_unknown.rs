use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(tabel = "users")]
struct User {
    #[read_model(keys)]
    id: String,
    #[read_model(unique)]
    email: String,
    #[read_model(table = "users")]
    name: String,
}

fn main() {}
