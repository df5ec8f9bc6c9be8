use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent, _position: (u8, u8)) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
