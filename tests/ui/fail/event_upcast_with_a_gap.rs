use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User", version = 4, upcast(1 = Old, 3 = Newer))]
struct UserRegistered {
    email: String,
}

#[derive(Deserialize)]
struct Old {}

#[derive(Deserialize)]
struct Newer {}

fn main() {}
