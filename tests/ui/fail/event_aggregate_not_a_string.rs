use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = User)]
struct UserRegistered {
    email: String,
}

fn main() {}
