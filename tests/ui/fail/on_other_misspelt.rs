use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on(othr)]
    async fn rest(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
