use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Drop for Users {
    fn drop(&mut self) {}
}

fn main() {}
