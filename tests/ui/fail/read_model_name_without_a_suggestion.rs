use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "2Users")]
struct User {
    #[read_model(key)]
    id: String,
    #[read_model(rename = "XMIN")]
    least: i64,
    email: String,
    email_2: String,
    #[read_model(rename = "email")]
    address: String,
    #[read_model(sql_type = " text[] ")]
    tags: String,
}

fn main() {}
