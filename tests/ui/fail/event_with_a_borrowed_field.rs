use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct UserRegistered {
    email: &'static str,
    note: Option<&'static str>,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
enum UserEvent {
    Renamed { name: &'static str },
    Pictured(&'static [u8]),
}

fn main() {}
