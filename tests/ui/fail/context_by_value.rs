use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _cx: Context, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
