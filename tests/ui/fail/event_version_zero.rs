use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User", version = 0)]
struct UserRegistered {
    email: String,
}

fn main() {}
