use consumer::prelude::*;

struct Users;

#[consumer(name = "users", start_from = "yesterday")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
