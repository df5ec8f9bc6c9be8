//! The documented forms of concurrency in a handler compile, and handle every event.

use std::sync::atomic::{AtomicUsize, Ordering};

use consumer::prelude::*;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};

static PUBLISHED: AtomicUsize = AtomicUsize::new(0);

struct Publisher;

impl Publisher {
    async fn publish(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
        tokio::task::yield_now().await;
        assert_eq!(&*event.event_type, "Sent");
        PUBLISHED.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[consumer(name = "publisher")]
impl Publisher {
    async fn handle(&self, events: &[PersistedEvent]) -> Result<(), HandlerError> {
        stream::iter(events.iter().map(Ok))
            .try_for_each_concurrent(8, |event| self.publish(event))
            .await?;
        stream::iter(events.to_vec())
            .map(|event| async move { self.publish(&event).await })
            .buffer_unordered(8)
            .try_collect::<()>()
            .await?;
        let calls: Vec<_> = events.iter().map(|event| self.publish(event)).collect();
        stream::iter(calls)
            .buffer_unordered(8)
            .try_collect::<()>()
            .await?;
        future::try_join_all(events.iter().map(|event| self.publish(event))).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() {
    let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
    store.migrate().await.unwrap();
    let sent = [
        NewEvent::new("Mail", "m-1", "Sent", "{}"),
        NewEvent::new("Mail", "m-1", "Sent", "{}"),
    ];
    store.append(ExpectedVersion::Any, &sent).await.unwrap();
    let worker = Worker::builder(store).discover().build().unwrap();
    worker.run_once().await.unwrap();
    assert_eq!(PUBLISHED.load(Ordering::Relaxed), 2 * 4);
}
