use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(agregate = "User", crate = self::consumer)]
enum UserEvent {
    #[event(version = 0, upcast(2 = Old, 4 = Newer))]
    Registered(String, u8),
    #[event(name = "", upcast())]
    Renamed { name: String },
    #[event(name = 5)]
    Deleted,
}

fn main() {}
