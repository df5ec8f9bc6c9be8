use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
#[consumer(name = "users_again")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
