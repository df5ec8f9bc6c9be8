use consumer::prelude::*;

use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct UserRegistered {
    email: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
struct OrderPlaced {
    total: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
enum UserEvent {
    Registered(UserRegistered),
    UserRenamed { name: String },
    UserDeleted,
}

struct Users;

#[consumer(name = "users", aggregates = [UserEvent])]
impl Users {
    #[on("UserRenmaed")]
    async fn renamed(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on(other)]
    async fn rest(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
