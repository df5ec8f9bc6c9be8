use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User", version = 2, upcast(1 = Old))]
struct UserRegistered {
    email: String,
}

#[derive(Deserialize)]
struct Old {}

fn main() {}
