use consumer::prelude::*;

#[consumer(name = "users")]
struct Users;

fn main() {}
