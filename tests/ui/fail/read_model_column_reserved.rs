use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    xmin: i64,
    #[read_model(rename = "rowid")]
    row: i64,
}

fn main() {}
