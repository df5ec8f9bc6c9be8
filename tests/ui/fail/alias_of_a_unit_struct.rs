use consumer::prelude::*;

struct Users;

type Alias = Users;

#[consumer(name = "users")]
impl Alias {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
