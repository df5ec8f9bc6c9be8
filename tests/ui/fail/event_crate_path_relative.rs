use consumer::prelude::*;
use serde::{Deserialize, Serialize};

mod events {
    pub use ::consumer::*;
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User", crate = self::events)]
struct UserRegistered {
    email: String,
}

fn main() {}
