use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[cfg(any())]
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
