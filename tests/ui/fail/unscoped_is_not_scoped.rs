use consumer::prelude::*;

struct Unscoped;

#[consumer(name = "unscoped")]
impl Unscoped {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

async fn start(store: SqliteEventStore) {
    let _ = Worker::builder(store).scoped_consumer(Unscoped);
}

fn main() {}
