use consumer::prelude::*;

struct r#Type;

#[consumer(retries = 3)]
impl r#Type {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
