use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
#[allow(non_snake_case)]
struct User {
    #[read_model(key)]
    id: String,
    eMail: String,
    #[read_model(rename = "first name")]
    first_name: String,
    #[read_model(rename = "")]
    last_name: String,
}

fn main() {}
