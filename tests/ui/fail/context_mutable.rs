use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _cx: &mut Context, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
