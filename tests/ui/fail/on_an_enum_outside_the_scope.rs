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
    Deleted,
}

struct Orders;

#[consumer(name = "orders", aggregates = ["Order"])]
impl Orders {
    #[on]
    async fn user(&self, _event: UserEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
