use std::task::Context;

use consumer::{HandlerError, PersistedEvent, consumer};

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _cx: &Context<'_>, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
