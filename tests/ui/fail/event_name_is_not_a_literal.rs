use consumer::prelude::*;
use serde::{Deserialize, Serialize};

const AGGREGATE: &str = "User";

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = AGGREGATE, name = concat!("User", "Registered"), version = VERSION)]
struct UserRegistered {
    email: String,
}

fn main() {}
