use consumer::prelude::*;

struct Users;

#[consumer(name = "users", batch_size = 5u32)]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
