use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct UserRegistered<T> {
    email: T,
}

fn main() {}
