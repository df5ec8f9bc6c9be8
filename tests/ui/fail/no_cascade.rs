//! One mistake, and everything that depends on the consumer stays quiet.

use consumer::prelude::*;
use consumer::sqlx::Sqlite;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(agregate = "User")]
enum UserEvent {
    Registered { email: String },
}

struct Users;

#[consumer(nmae = "users", name = "users", aggregates = [UserEvent])]
impl Users {
    #[on]
    async fn registered(&self, _event: UserEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct Quiet;

#[consumer(name = "quiet", aggregates = [UserEvent, "Order"])]
impl Quiet {
    #[on]
    async fn registered(&self, _event: UserEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on("Unheard")]
    async fn unheard(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn is_a_consumer(_: impl ScopedConsumer<Sqlite>) {}

fn main() {
    is_a_consumer(Users);
    is_a_consumer(Quiet);
}
