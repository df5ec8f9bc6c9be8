use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User", name = "UserEvent")]
enum UserEvent {
    Deleted,
}

fn main() {}
