use consumer::prelude::*;

#[consumer(name = "users", database = any)]
struct Users<T> {
    rows: Vec<T>,
}

fn main() {}
