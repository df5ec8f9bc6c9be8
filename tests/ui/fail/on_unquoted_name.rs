use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on(UserRegistered)]
    async fn registered(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
