use consumer::prelude::*;

#[derive(ReadModel)]
struct OrderLine {
    #[read_model(key)]
    id: String,
    amount: i64,
}

fn main() {}
