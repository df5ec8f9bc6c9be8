use consumer::prelude::*;

struct Users<T>(T);

#[consumer(name = "users")]
impl<T: Send + Sync + 'static> Users<T> {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
