use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle<T: Send>(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
