use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[cfg(all())]
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on("UserRegistered")]
    async fn registered(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
