use consumer::prelude::*;

struct Users;

#[consumer(name = "users", init = Users::with_a_pool)]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
