use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    async fn handle(&self, _events: &[PersistedEvent]) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
