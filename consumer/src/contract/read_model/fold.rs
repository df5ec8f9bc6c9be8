//! What a consumer with a read model does with an event.

use super::keys::Keys;
use super::model::ReadModel;
use super::rows::Rows;
use crate::contract::{Context, HandlerError, PersistedEvent};

/// Applies events to the rows of a read model, without SQL.
///
/// [`#[consumer(…, read_model = …)]`](macro@crate::consumer) writes the implementation. By hand it is
/// the handler of a consumer whose `handle_batch` calls [`fold_batch`](super::fold_batch), which shows an
/// example.
pub trait Fold: Send + Sync + 'static {
    /// The rows.
    type Row: ReadModel;

    /// Adds the keys of the rows that the event's handlers need.
    ///
    /// It is called for all events of a batch before the first of them is applied.
    ///
    /// # Errors
    /// Any error fails the event.
    fn keys(
        &self,
        cx: &Context,
        event: &PersistedEvent,
        keys: &mut Keys<'_, <Self::Row as ReadModel>::Key>,
    ) -> Result<(), HandlerError>;

    /// Applies the event to those rows.
    ///
    /// It must depend on nothing but the event and the rows: then the rows are the same however the
    /// events are divided into batches.
    ///
    /// # Errors
    /// Any error fails the event.
    fn fold(
        &self,
        cx: &Context,
        event: &PersistedEvent,
        rows: &mut Rows<'_, Self::Row>,
    ) -> Result<(), HandlerError>;
}
