use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent, _again: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
