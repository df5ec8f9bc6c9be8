use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    fn helper(&self) {
    }
}

fn main() {}
