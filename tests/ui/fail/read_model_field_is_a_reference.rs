use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: &'static str,
    note: Option<&'static str>,
    picture: &'static [u8],
}

fn main() {}
