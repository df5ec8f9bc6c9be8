//! `cfg` on handlers is copied to every mention of them.
#![allow(clippy::non_minimal_cfg)]

use consumer::prelude::*;
use consumer::sqlx::{Connection, Sqlite};
use consumer::{ErasedConsumer, EventRecord};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
enum UserEvent {
    Registered,
    #[cfg(any())]
    NeverThere,
    Deleted,
}

#[cfg(any())]
#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Absent {}

struct Users;

#[consumer(name = "users", aggregates = [UserEvent])]
impl Users {
    #[cfg(any())]
    #[on]
    async fn absent(&self, _tx: &mut NoSuchConnection, _event: Absent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[cfg(all())]
    #[on("Registered")]
    async fn registered(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Err("one".into())
    }

    #[cfg(any())]
    #[on("Registered")]
    async fn registered(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Err("two".into())
    }

    #[on("Deleted")]
    async fn deleted(
        &self,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }

    #[cfg(any())]
    #[on(reset)]
    async fn empty(&self) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct EitherWay;

#[consumer(name = "either_way")]
impl EitherWay {
    #[cfg(all())]
    async fn handle(
        &self,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }

    #[cfg(not(all()))]
    async fn handle(
        &self,
        _tx: &mut PgConnection,
        _events: &[PersistedEvent],
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct WithOrWithout;

#[consumer(name = "with_or_without")]
impl WithOrWithout {
    #[cfg(all())]
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[cfg(not(all()))]
    async fn handle(
        &self,
        _tx: &mut NoSuchConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct TwoConnections;

#[consumer(name = "two_connections")]
impl TwoConnections {
    #[cfg(any())]
    async fn handle(
        &self,
        _tx: &mut NoSuchConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }

    #[cfg(all())]
    #[cfg(not(any(),))]
    async fn handle(
        &self,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }

    #[cfg(any())]
    #[on(reset)]
    async fn empty(&self, _tx: &mut NoSuchConnection) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct OnlyOneTakesTx;

#[consumer(name = "only_one_takes_tx")]
impl OnlyOneTakesTx {
    #[on("Registered")]
    async fn registered(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[cfg(any())]
    #[on("Deleted")]
    async fn deleted(
        &self,
        _tx: &mut NoSuchConnection,
        _events: &[PersistedEvent],
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct HandleOrOn;

#[consumer(name = "handle_or_on")]
impl HandleOrOn {
    #[cfg(any())]
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[cfg(not(any()))]
    #[on("Registered")]
    async fn registered(&self, _events: &[PersistedEvent]) -> Result<(), HandlerError> {
        Err("registered".into())
    }
}

struct OnOrHandle;

#[consumer(name = "on_or_handle")]
impl OnOrHandle {
    #[cfg(all())]
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Err("handle".into())
    }

    #[cfg(not(all()))]
    #[on("Registered")]
    async fn registered(&self, _events: &[PersistedEvent]) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[derive(ReadModel)]
#[read_model(table = "rows")]
struct Row {
    #[read_model(key)]
    id: String,
    #[read_model(key)]
    part: i64,
    #[cfg(any())]
    absent: NoSuchType,
    #[cfg(all())]
    name: String,
}

struct Rows;

// No aggregate id is the key, and the handler that would need it is not there.
#[consumer(name = "rows", read_model = Row)]
impl Rows {
    #[cfg(any())]
    #[on("Registered")]
    fn registered(row: &mut Row, event: &PersistedEvent) {
        row.no_such_field = event;
    }

    #[cfg(all())]
    #[on("Registered", key = (event.aggregate_id, event.global_position))]
    fn registered(row: &mut Row, event: &PersistedEvent) {
        row.name.clone_from(&event.event_type.to_string());
    }

    #[cfg(any())]
    #[on]
    async fn absent(&self, _tx: &mut NoSuchConnection, _event: Absent) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let event = |kind: &str| {
        PersistedEvent::new(EventRecord {
            aggregate_type: "User".into(),
            event_type: kind.into(),
            ..EventRecord::default()
        })
    };
    let mut tx = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let cx = Context::new("users");
    let events = [event("Deleted"), event("Registered")];
    let failed = ErasedConsumer::handle_batch(&Users, &cx, &mut tx, &events)
        .await
        .unwrap_err();
    assert_eq!(
        (failed.handled, failed.error.to_string().as_str()),
        (1, "one")
    );
    assert!(!ErasedConsumer::<Sqlite>::can_reset(&Users));
    assert!(!ErasedConsumer::<Sqlite>::uses_transaction(&WithOrWithout));
    assert!(ErasedConsumer::<Sqlite>::uses_transaction(&TwoConnections));
    assert!(!ErasedConsumer::<Sqlite>::uses_transaction(&OnlyOneTakesTx));
    for (said, failed) in [
        (
            "registered",
            ErasedConsumer::<Sqlite>::handle_batch(&HandleOrOn, &cx, &mut tx, &events).await,
        ),
        (
            "handle",
            ErasedConsumer::<Sqlite>::handle_batch(&OnOrHandle, &cx, &mut tx, &events).await,
        ),
    ] {
        assert_eq!(failed.unwrap_err().error.to_string(), said);
    }
    assert_eq!(
        consumer::Registry::<Sqlite>::discover()
            .unwrap()
            .registered()
            .len(),
        8
    );
}
