use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<u64, HandlerError> {
        Ok(7)
    }
}

fn main() {}
