use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
