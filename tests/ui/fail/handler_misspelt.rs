use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handel(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
