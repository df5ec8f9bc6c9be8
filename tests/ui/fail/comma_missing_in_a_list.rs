use consumer::prelude::*;

struct Users;

#[consumer(name = "users", aggregates = ["User" "Order"])]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
