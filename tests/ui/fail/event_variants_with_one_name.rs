use consumer::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
enum UserEvent {
    Renamed { name: String },
    #[event(name = "Renamed")]
    NameChanged { name: String },
}

fn main() {}
