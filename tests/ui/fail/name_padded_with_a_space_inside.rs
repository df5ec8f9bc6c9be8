use consumer::prelude::*;

struct Users;

#[consumer(name = " user model ")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
