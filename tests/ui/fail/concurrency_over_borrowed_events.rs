use consumer::prelude::*;
use futures_util::{StreamExt, TryStreamExt, stream};

struct Publisher;

impl Publisher {
    async fn publish(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[consumer(name = "publisher")]
impl Publisher {
    async fn handle(&self, events: &[PersistedEvent]) -> Result<(), HandlerError> {
        stream::iter(events)
            .map(|event| self.publish(event))
            .buffer_unordered(8)
            .try_collect::<()>()
            .await
    }
}

fn main() {}
