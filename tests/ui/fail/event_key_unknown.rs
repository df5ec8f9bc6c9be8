use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(agregate = "User", aggregate = "User")]
struct UserRegistered {
    email: String,
}

fn main() {}
