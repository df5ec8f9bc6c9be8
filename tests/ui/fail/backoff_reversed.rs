use consumer::prelude::*;

struct Users;

#[consumer(name = "users", backoff = "30s..100ms")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
