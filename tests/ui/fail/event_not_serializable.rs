use consumer::prelude::*;
use serde::Deserialize;

#[derive(Event, Deserialize)]
#[event(aggregate = "User")]
struct UserRegistered {
    email: String,
}

fn main() {}
