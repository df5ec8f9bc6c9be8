use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _events: &mut [PersistedEvent]) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
