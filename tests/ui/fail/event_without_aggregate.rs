use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct UserRegistered {
    email: String,
}

fn main() {}
