use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    #[read_model(sql_type = "numeric NOT NULL")]
    balance: String,
    #[read_model(sql_type = "text[]")]
    tags: String,
    #[read_model(sql_type = "text; DROP TABLE users")]
    note: String,
}

fn main() {}
