use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(agregate = "User")]
struct UserRegistered {
    email: String,
}

fn main() {}
