//! The event that a handler is handling, so that the events it appends can name their cause.
//!
//! The worker enters a scope once a batch; the event is looked up only when a handler appends.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;

use crate::contract::{NewEvent, PersistedEvent};

tokio::task_local! {
    static CAUSE: Arc<dyn Cause>;
}

/// Finds the event that is being handled.
pub(crate) trait Cause: Send + Sync {
    /// The event, or `None` between events and in handlers of whole batches.
    fn current(&self) -> Option<PersistedEvent>;
}

impl<F: Fn() -> Option<PersistedEvent> + Send + Sync> Cause for F {
    fn current(&self) -> Option<PersistedEvent> {
        self()
    }
}

/// Runs `work` so that every append in it, in this task, finds its cause in `cause`.
pub(crate) async fn within<F: Future>(cause: Arc<dyn Cause>, work: F) -> F::Output {
    CAUSE.scope(cause, work).await
}

/// The event at a position in a batch, whose positions ascend.
pub(crate) fn find(batch: &[PersistedEvent], position: i64) -> Option<PersistedEvent> {
    let index = batch
        .binary_search_by_key(&position, |event| event.global_position)
        .ok()?;
    batch.get(index).cloned()
}

/// Fills in the cause of events that a handler appends, where they name none.
pub(crate) fn with_cause(events: &[NewEvent]) -> Cow<'_, [NewEvent]> {
    if events.iter().all(NewEvent::names_its_cause) {
        return Cow::Borrowed(events);
    }
    match CAUSE.try_with(|cause| cause.current()) {
        Ok(Some(cause)) => Cow::Owned(
            events
                .iter()
                .map(|event| event.clone().caused_by(&cause))
                .collect(),
        ),
        _ => Cow::Borrowed(events),
    }
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use std::sync::Arc;

    use super::{find, within};
    use crate::contract::{Context, ExpectedVersion, NewEvent, PersistedEvent};
    use crate::store::SqliteEventStore;

    fn event(id: &str) -> NewEvent {
        NewEvent::new("User", id, "Happened", "")
    }

    async fn append(store: &SqliteEventStore, event: NewEvent) -> PersistedEvent {
        store
            .append(ExpectedVersion::Any, &[event])
            .await
            .unwrap()
            .remove(0)
    }

    #[tokio::test]
    async fn an_event_appended_by_a_handler_has_the_handled_one_as_cause() {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        let first = append(&store, event("1")).await;
        let second = append(&store, event("2").correlation_id("order-7")).await;

        // As the worker does: one scope for a batch, and the context knows the event.
        let cx = Arc::new(Context::new("mails"));
        let batch = [first.clone(), second.clone()];
        let handling = Arc::clone(&cx);
        let cause = move || find(&batch, handling.current_position()?);
        let appended = within(Arc::new(cause), async {
            let between_events = append(&store, event("3")).await;
            cx.enter(first.global_position);
            let by_first = append(&store, event("4")).await;
            cx.enter(second.global_position);
            let by_second = append(&store, event("5")).await;
            let by_itself = append(&store, event("6").causation_id("a").correlation_id("b")).await;
            [between_events, by_first, by_second, by_itself]
        })
        .await;

        let ids = appended.map(|event| (event.causation_id.clone(), event.correlation_id.clone()));
        let id = |event: &PersistedEvent| Some(event.event_id.to_string());
        assert_eq!(ids[0], (None, None));
        assert_eq!(ids[1], (id(&first), id(&first)));
        assert_eq!(ids[2], (id(&second), Some("order-7".to_owned())));
        assert_eq!(ids[3], (Some("a".to_owned()), Some("b".to_owned())));
        let outside = append(&store, event("7")).await;
        assert_eq!(outside.causation_id, None);
    }

    #[test]
    fn an_event_is_found_by_its_position_in_a_batch_with_gaps() {
        let batch = [1, 5, 9].map(|global_position| {
            PersistedEvent::new(crate::EventRecord {
                global_position,
                ..crate::EventRecord::default()
            })
        });
        assert_eq!(find(&batch, 5).unwrap().global_position, 5);
        assert_eq!(find(&batch, 6), None);
    }
}
