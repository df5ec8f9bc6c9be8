use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User<T> {
    #[read_model(key)]
    id: String,
    value: T,
}

fn main() {}
