use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User" version = 2)]
struct UserRegistered {
    email: String,
}

fn main() {}
