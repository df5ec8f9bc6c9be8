use consumer::Event;
use serde::Serialize;

#[derive(Event, Serialize)]
#[event(aggregate = "User")]
struct UserRegistered {
    email: String,
}

fn main() {}
