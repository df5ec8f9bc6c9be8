//! Which events of a log the code of a program does not know.

use serde::Serialize;

use super::error::AdminError;
use super::operator::{Admin, declared_id};
use super::status::consumer_and_version;
#[cfg(feature = "cli")]
use crate::backend::UnknownEvent;
use crate::backend::{Backend, ConsumerId, FormatCount};
use crate::registry::Registered;

/// The events of one type and version that a consumer's code does not know; from [`Admin::unknown_events`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UnknownEvents {
    /// The consumer.
    #[serde(flatten, serialize_with = "consumer_and_version")]
    pub consumer: ConsumerId,
    /// The type of the aggregate.
    pub aggregate_type: String,
    /// The type of the events.
    pub event_type: String,
    /// The version of their payloads' format.
    pub event_version: i32,
    /// How many there are.
    pub events: u64,
    /// The position of the first.
    pub first: i64,
    /// The position of the last.
    pub last: i64,
}

impl<DB: Backend> Admin<DB> {
    /// Lists the types and versions of events in the log that the code of each consumer does not know, in its
    /// scope and wherever its checkpoint is.
    ///
    /// It shows all at once, before a consumer reaches the first one: when a log is adopted, and before a
    /// deploy. The log is read once, with about a second for each million events on a warm cache. If every
    /// consumer has a scope, only events of their aggregate types are read, through the index on them.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::prelude::*;
    /// use consumer::{Registered, Worker};
    ///
    /// #[derive(Event, serde::Serialize, serde::Deserialize)]
    /// #[event(aggregate = "Order")]
    /// enum OrderEvent {
    ///     Placed { total: i64 },
    /// }
    ///
    /// #[derive(Default)]
    /// struct Orders;
    ///
    /// #[consumer(name = "orders", aggregates = [OrderEvent])]
    /// impl Orders {
    ///     #[on]
    ///     async fn any(&self, _event: OrderEvent) -> Result<(), HandlerError> {
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let refunded = NewEvent::new("Order", "o-1", "Refunded", "{}");
    /// store.append(ExpectedVersion::Any, &[refunded]).await?;
    ///
    /// let admin = Worker::builder(store).consumer(Orders).admin()?;
    /// let unknown = admin.unknown_events().await?;
    /// assert_eq!((&*unknown[0].event_type, unknown[0].events, unknown[0].first), ("Refunded", 1, 1));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If the database fails or the tables are missing.
    pub async fn unknown_events(&self) -> Result<Vec<UnknownEvents>, AdminError> {
        if self.code.is_empty() {
            return Ok(Vec::new());
        }
        let tables = self.tables().await?;
        let mut tx = self.read().await?;
        let formats = DB::formats(&tables.lag, &mut tx, &self.common_scope()).await?;
        drop(tx);
        let unknown = self.code.iter().flat_map(|code| {
            let of_code = formats.iter().filter(|format| !knows(code, format));
            of_code.map(|format| unknown_events(code, format))
        });
        Ok(unknown.collect())
    }

    /// Whether the code of a consumer in this program knows an event.
    #[cfg(feature = "cli")]
    pub(crate) fn knows(&self, consumer: &ConsumerId, event: &UnknownEvent) -> bool {
        let code = self.code_of(consumer);
        code.is_ok_and(|code| code.consumer.knows(event.format()))
    }

    /// The aggregate types in the scope of any consumer; empty for all.
    fn common_scope(&self) -> Vec<String> {
        let scopes = || self.code.iter().map(|code| &code.declaration.scope);
        if scopes().any(Vec::is_empty) {
            return Vec::new();
        }
        let mut scope: Vec<String> = scopes().flatten().map(ToString::to_string).collect();
        scope.sort_unstable();
        scope.dedup();
        scope
    }
}

/// Whether the events are out of scope, or the code knows them.
fn knows<DB: Backend>(code: &Registered<DB>, format: &FormatCount) -> bool {
    let scope = &code.declaration.scope;
    let mut own = scope.iter();
    let is_in_scope = scope.is_empty() || own.any(|one| **one == *format.aggregate_type);
    !is_in_scope || code.consumer.knows(format.format())
}

fn unknown_events<DB: Backend>(code: &Registered<DB>, format: &FormatCount) -> UnknownEvents {
    UnknownEvents {
        consumer: declared_id(&code.declaration),
        aggregate_type: format.aggregate_type.clone(),
        event_type: format.event_type.clone(),
        event_version: format.event_version,
        events: u64::try_from(format.events).unwrap_or(0),
        first: format.first,
        last: format.last,
    }
}
