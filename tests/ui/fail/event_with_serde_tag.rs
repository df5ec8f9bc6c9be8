use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
#[serde(tag = "type")]
enum UserEvent {
    Renamed { name: String },
}

fn main() {}
