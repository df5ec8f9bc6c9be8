use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User", upcast(1 = Old))]
struct UserRegistered {
    email: String,
}

#[derive(Deserialize)]
struct Old {}

impl From<Old> for UserRegistered {
    fn from(_: Old) -> Self {
        Self { email: String::new() }
    }
}

fn main() {}
