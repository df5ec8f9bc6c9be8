use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Renamed {
    name: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
enum UserEvent {
    NameChanged(Renamed),
    Renamed { name: String },
}

fn main() {}
