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
    Renamed(Renamed),
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
enum AccountEvent {
    Closed,
}

struct Users;

#[consumer(name = "users", aggregates = [UserEvent, AccountEvent])]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
