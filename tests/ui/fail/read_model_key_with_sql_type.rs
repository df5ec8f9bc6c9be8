use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key, sql_type = "varchar(20)")]
    id: String,
    email: String,
}

fn main() {}
