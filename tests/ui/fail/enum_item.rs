use consumer::prelude::*;

#[consumer(name = "users")]
enum Users {
    Active,
}

fn main() {}
