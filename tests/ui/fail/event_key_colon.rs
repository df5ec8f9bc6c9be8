use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate: "User")]
struct UserRegistered {
    email: String,
}

fn main() {}
