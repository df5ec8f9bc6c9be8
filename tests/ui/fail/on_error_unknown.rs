use consumer::prelude::*;

struct Users;

#[consumer(name = "users", on_error = "prak")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
