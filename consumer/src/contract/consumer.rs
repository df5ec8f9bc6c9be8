//! The traits that consumers implement (R1–R9).

use std::future::Future;
use std::pin::Pin;

use sqlx::Database;

use super::read_model::Table;
use super::{BatchError, Context, EventFormat, Formerly, HandlerError, PersistedEvent, Settings};

/// The default loop of `handle_batch`. It is a macro because a function that takes `handle` as an
/// argument cannot require its future to be `Send` for every lifetime.
macro_rules! one_by_one {
    ($self:ident, $cx:ident, $tx:ident, $events:ident) => {
        async move {
            for (handled, event) in $events.iter().enumerate() {
                if handled > 0 && $cx.should_stop(handled) {
                    return Ok(handled);
                }
                $cx.enter(event.global_position);
                $self
                    .handle($cx, $tx, event)
                    .await
                    .map_err(|error| BatchError::at(handled, error))?;
            }
            Ok($events.len())
        }
    };
}

/// The unit of event processing: receives persisted events one after the other and causes an
/// effect.
///
/// [`#[consumer]`](macro@crate::consumer) writes the implementation. By hand, a consumer that prints
/// every event on any database looks like this:
///
/// ```
/// use consumer::sqlx::Database;
/// use consumer::{Consumer, Context, HandlerError, PersistedEvent, Settings};
///
/// struct AuditLog;
///
/// impl<DB: Database> Consumer<DB> for AuditLog {
///     fn name(&self) -> &str {
///         "audit_log"
///     }
///
///     async fn handle(
///         &self,
///         _cx: &Context,
///         _tx: &mut DB::Connection,
///         event: &PersistedEvent,
///     ) -> Result<(), HandlerError> {
///         println!("{} {}", event.global_position, event.event_type);
///         Ok(())
///     }
///
///     // The rest is optional.
///     fn settings(&self) -> Settings {
///         Settings::DEFAULT.batch_size(50).retries(20)
///     }
///
///     fn uses_transaction(&self) -> bool {
///         false
///     }
/// }
/// ```
///
/// `tx` is the transaction that also saves the checkpoint (R3). Its type is sqlx's own for a
/// connection inside another owner's transaction: it can neither commit nor roll back, and raw SQL
/// that tries is refused with nothing of the batch saved (R4). A nested `begin()` is a savepoint and
/// is allowed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a consumer for the database `{DB}`",
    label = "no `Consumer<{DB}>` here",
    note = "put `#[consumer(name = \"…\")]` on an `impl {Self} {{ … }}` block with an `async fn handle`, or implement `Consumer<{DB}>` by hand"
)]
pub trait Consumer<DB: Database>: Send + Sync + 'static {
    /// Returns the unique name, which keys the checkpoint (R1).
    fn name(&self) -> &str;

    /// Processes one event.
    ///
    /// # Errors
    /// Any error stops the consumer before this event, after the retries that its
    /// [`Settings`] allow (R2).
    fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Processes the events of one batch in order and returns how many it handled.
    ///
    /// The worker calls this method; the default calls [`handle`](Self::handle) for each event. An
    /// implementation may return early at an event boundary, but never with zero for a non-empty
    /// batch.
    ///
    /// ```
    /// use consumer::sqlx::Database;
    /// use consumer::{BatchError, Consumer, Context, HandlerError, PersistedEvent};
    ///
    /// struct Bulk;
    ///
    /// impl<DB: Database> Consumer<DB> for Bulk {
    ///     fn name(&self) -> &str {
    ///         "bulk"
    ///     }
    ///
    ///     async fn handle(&self, _cx: &Context, _tx: &mut DB::Connection, event: &PersistedEvent) -> Result<(), HandlerError> {
    ///         index(std::slice::from_ref(event)).await
    ///     }
    ///
    ///     async fn handle_batch(&self, _cx: &Context, _tx: &mut DB::Connection, events: &[PersistedEvent]) -> Result<usize, BatchError> {
    ///         index(events)
    ///             .await
    ///             // Any of them may have failed; the worker finds it by halving the batch.
    ///             .map_err(|error| BatchError::within(0, events.len(), error))?;
    ///         Ok(events.len())
    ///     }
    /// }
    ///
    /// async fn index(events: &[PersistedEvent]) -> Result<(), HandlerError> {
    ///     // One request for all of them.
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Says how many events succeeded, and which may have failed.
    fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> impl Future<Output = Result<usize, BatchError>> + Send {
        one_by_one!(self, cx, tx, events)
    }

    /// Returns the aggregate types of the consumer's scope; empty for every event (R7, R8).
    ///
    /// [`Registered::new`](crate::Registered::new), the worker's builder and the test kit take the scope
    /// from here. A [`ScopedConsumer`] returns its
    /// [`aggregate_types`](ScopedConsumer::aggregate_types); `#[consumer]` does so too.
    fn scope(&self) -> &[&str] {
        &[]
    }

    /// Returns how to run the consumer, unless the worker's builder overrides it.
    fn settings(&self) -> Settings {
        Settings::DEFAULT
    }

    /// Returns whether the consumer's code can tell what an event in its scope means.
    ///
    /// A worker gives the consumer no event of a format that it does not know, and waits before it until a
    /// release that knows it has handled it. The default knows every format. `#[consumer]` knows those of the
    /// types in its code: see the guide [`deploying`](crate::guide::deploying).
    ///
    /// ```
    /// use consumer::sqlx::Database;
    /// use consumer::{Consumer, Context, EventFormat, HandlerError, PersistedEvent};
    ///
    /// struct Orders;
    ///
    /// impl<DB: Database> Consumer<DB> for Orders {
    ///     fn name(&self) -> &str {
    ///         "orders"
    ///     }
    ///
    ///     fn knows(&self, format: EventFormat<'_>) -> bool {
    ///         matches!((format.event_type, format.event_version), ("OrderPlaced", 1 | 2) | ("OrderPaid", 1))
    ///     }
    ///
    ///     async fn handle(&self, _cx: &Context, _tx: &mut DB::Connection, _event: &PersistedEvent) -> Result<(), HandlerError> {
    ///         Ok(())
    ///     }
    /// }
    /// ```
    fn knows(&self, format: EventFormat<'_>) -> bool {
        let _ = format;
        true
    }

    /// Returns whether the consumer does anything with the events of a format.
    ///
    /// Events that it passes over are never parked: behind a parked event of their aggregate, they are given
    /// to the consumer all the same. The default takes every format. `#[consumer]` takes those that a method
    /// marked `#[on]` takes and `ignore` does not name.
    ///
    /// ```
    /// use consumer::sqlx::Database;
    /// use consumer::{Consumer, Context, EventFormat, HandlerError, PersistedEvent};
    ///
    /// struct Invoices;
    ///
    /// impl<DB: Database> Consumer<DB> for Invoices {
    ///     fn name(&self) -> &str {
    ///         "invoices"
    ///     }
    ///
    ///     fn takes(&self, format: EventFormat<'_>) -> bool {
    ///         format.event_type == "OrderPlaced"
    ///     }
    ///
    ///     async fn handle(&self, _cx: &Context, _tx: &mut DB::Connection, event: &PersistedEvent) -> Result<(), HandlerError> {
    ///         if &*event.event_type == "OrderPlaced" {
    ///             println!("an invoice for {}", event.aggregate_id);
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    fn takes(&self, format: EventFormat<'_>) -> bool {
        let _ = format;
        true
    }

    /// Returns the name that the consumer had before, for one that was renamed.
    fn formerly(&self) -> Formerly {
        Formerly::Unstated
    }

    /// Returns whether the consumer writes through the transaction.
    ///
    /// A consumer whose target is not this database returns `false` (R5), and no transaction is kept
    /// open while its handler runs.
    fn uses_transaction(&self) -> bool {
        true
    }

    /// Returns the table that the library keeps for the consumer, if it has one.
    ///
    /// The worker creates the table at start, and the consumer's handler is
    /// [`fold_batch`](crate::read_model::fold_batch).
    fn read_model(&self) -> Option<&'static Table> {
        None
    }

    /// Returns whether the consumer writes nothing but rows of its [`read_model`](Self::read_model),
    /// with [`fold_batch`](crate::read_model::fold_batch).
    ///
    /// No other SQL runs in the transaction then, so the worker neither guards it against a `COMMIT`
    /// (R4) nor restores the session after it, which makes batches of a few events faster.
    fn only_folds(&self) -> bool {
        false
    }

    /// Returns whether the consumer implements [`reset`](Self::reset).
    fn can_reset(&self) -> bool {
        false
    }

    /// Empties the read model when a rebuild begins, in the transaction that resets the checkpoint.
    ///
    /// ```
    /// use consumer::sqlx::{self, Sqlite, SqliteConnection};
    /// use consumer::{Consumer, Context, HandlerError, PersistedEvent};
    ///
    /// struct Users;
    ///
    /// impl Consumer<Sqlite> for Users {
    ///     fn name(&self) -> &str {
    ///         "users"
    ///     }
    ///
    ///     async fn handle(&self, _cx: &Context, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError> {
    ///         sqlx::query("INSERT INTO users (id) VALUES (?1)").bind(&event.aggregate_id).execute(tx).await?;
    ///         Ok(())
    ///     }
    ///
    ///     fn can_reset(&self) -> bool {
    ///         true
    ///     }
    ///
    ///     async fn reset(&self, _cx: &Context, tx: &mut SqliteConnection) -> Result<(), HandlerError> {
    ///         sqlx::query("DELETE FROM users").execute(tx).await?;
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// Any error cancels the rebuild, and nothing has changed.
    fn reset(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (cx, tx);
        async { Ok(()) }
    }
}

/// A consumer that receives only the events of some aggregate types (R7).
///
/// Implementing it is optional: a consumer without a scope receives every event (R8).
///
/// [`Consumer::scope`] has to return the same list, since the test kit takes the scope from there;
/// `WorkerBuilder::build` refuses a consumer that returns another one.
///
/// ```
/// use consumer::sqlx::Database;
/// use consumer::{Consumer, Context, HandlerError, PersistedEvent, ScopedConsumer};
///
/// struct Users;
///
/// impl<DB: Database> ScopedConsumer<DB> for Users {
///     fn aggregate_types(&self) -> &[&str] {
///         &["User"]
///     }
/// }
///
/// impl<DB: Database> Consumer<DB> for Users {
///     fn name(&self) -> &str {
///         "users"
///     }
///
///     fn scope(&self) -> &[&str] {
///         ScopedConsumer::<DB>::aggregate_types(self)
///     }
///
///     async fn handle(&self, _cx: &Context, _tx: &mut DB::Connection, event: &PersistedEvent) -> Result<(), HandlerError> {
///         println!("{} {}", event.aggregate_id, event.event_type);
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no scope",
    label = "no `ScopedConsumer<{DB}>` here",
    note = "add `aggregates = [\"…\"]` to its `#[consumer]`, or implement `ScopedConsumer<{DB}>` by hand"
)]
pub trait ScopedConsumer<DB: Database>: Consumer<DB> {
    /// Returns the aggregate types, which are compared exactly and case-sensitively; empty for every
    /// event.
    fn aggregate_types(&self) -> &[&str];
}

/// The handler of a struct with `#[consumer(…)]`, which adds the name, the scope and the
/// registration.
///
/// ```standalone_crate
/// use consumer::prelude::*;
/// use consumer::sqlx;
///
/// #[consumer(name = "printer", aggregates = ["User"], database = any)]
/// #[derive(Default)]
/// struct Printer;
///
/// impl<DB: sqlx::Database> Handler<DB> for Printer {
///     async fn handle(
///         &self,
///         _cx: &Context,
///         _tx: &mut DB::Connection,
///         event: &PersistedEvent,
///     ) -> Result<(), HandlerError> {
///         println!("{}", event.event_type);
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle events of the database `{DB}`",
    label = "no `Handler<{DB}>` here",
    note = "`#[consumer]` on a struct needs `impl Handler<{DB}> for {Self}`, and with `database = any` that is `impl<DB: Database> Handler<DB> for {Self}`: for one database write `database = Sqlite`; to write the handler in place put `#[consumer]` on an `impl` block instead"
)]
pub trait Handler<DB: Database>: Send + Sync + 'static {
    /// Processes one event, like [`Consumer::handle`].
    ///
    /// # Errors
    /// Any error stops the consumer before this event, after the retries that its
    /// [`Settings`] allow (R2).
    fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Processes the events of one batch, like [`Consumer::handle_batch`].
    ///
    /// # Errors
    /// Says how many events succeeded, and which may have failed.
    fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> impl Future<Output = Result<usize, BatchError>> + Send {
        one_by_one!(self, cx, tx, events)
    }

    /// Returns whether the struct implements [`reset`](Self::reset).
    fn can_reset(&self) -> bool {
        false
    }

    /// Empties the read model, like [`Consumer::reset`].
    ///
    /// # Errors
    /// Any error cancels the rebuild, and nothing has changed.
    fn reset(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (cx, tx);
        async { Ok(()) }
    }
}

/// A boxed future that can be sent between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`Consumer`] as a trait object, whose futures are boxed once a batch instead of once an event.
///
/// Every [`Consumer`] implements it. It is the type of
/// [`Registered::consumer`](crate::Registered::consumer).
///
/// ```
/// use consumer::sqlx::Database;
/// use consumer::{BatchError, Context, PersistedEvent, Registered};
///
/// /// Hands one batch to a consumer of any type, as a worker does.
/// async fn hand_over<DB: Database>(
///     registered: &Registered<DB>,
///     tx: &mut DB::Connection,
///     events: &[PersistedEvent],
/// ) -> Result<usize, BatchError> {
///     let cx = Context::new(registered.consumer.name());
///     registered.consumer.handle_batch(&cx, tx, events).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a consumer for the database `{DB}`",
    label = "no `Consumer<{DB}>` here",
    note = "put `#[consumer(name = \"…\")]` on an `impl {Self} {{ … }}` block with an `async fn handle`, or implement `Consumer<{DB}>` by hand: every type that implements it is an `ErasedConsumer<{DB}>`"
)]
pub trait ErasedConsumer<DB: Database>: Send + Sync + 'static {
    /// Returns [`Consumer::name`].
    fn name(&self) -> &str;

    /// Calls [`Consumer::handle_batch`].
    fn handle_batch<'a>(
        &'a self,
        cx: &'a Context,
        tx: &'a mut DB::Connection,
        events: &'a [PersistedEvent],
    ) -> BoxFuture<'a, Result<usize, BatchError>>;

    /// Returns [`Consumer::knows`].
    fn knows(&self, format: EventFormat<'_>) -> bool;

    /// Returns [`Consumer::takes`].
    fn takes(&self, format: EventFormat<'_>) -> bool;

    /// Returns [`Consumer::uses_transaction`].
    fn uses_transaction(&self) -> bool;

    /// Returns [`Consumer::read_model`].
    fn read_model(&self) -> Option<&'static Table>;

    /// Returns [`Consumer::only_folds`].
    fn only_folds(&self) -> bool;

    /// Returns [`Consumer::can_reset`].
    fn can_reset(&self) -> bool;

    /// Calls [`Consumer::reset`].
    fn reset<'a>(
        &'a self,
        cx: &'a Context,
        tx: &'a mut DB::Connection,
    ) -> BoxFuture<'a, Result<(), HandlerError>>;
}

#[diagnostic::do_not_recommend]
impl<DB: Database, C: Consumer<DB>> ErasedConsumer<DB> for C {
    fn name(&self) -> &str {
        Consumer::name(self)
    }

    fn handle_batch<'a>(
        &'a self,
        cx: &'a Context,
        tx: &'a mut DB::Connection,
        events: &'a [PersistedEvent],
    ) -> BoxFuture<'a, Result<usize, BatchError>> {
        Box::pin(Consumer::handle_batch(self, cx, tx, events))
    }

    fn knows(&self, format: EventFormat<'_>) -> bool {
        Consumer::knows(self, format)
    }

    fn takes(&self, format: EventFormat<'_>) -> bool {
        Consumer::takes(self, format)
    }

    fn uses_transaction(&self) -> bool {
        Consumer::uses_transaction(self)
    }

    fn read_model(&self) -> Option<&'static Table> {
        Consumer::read_model(self)
    }

    fn only_folds(&self) -> bool {
        Consumer::only_folds(self)
    }

    fn can_reset(&self) -> bool {
        Consumer::can_reset(self)
    }

    fn reset<'a>(
        &'a self,
        cx: &'a Context,
        tx: &'a mut DB::Connection,
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        Box::pin(Consumer::reset(self, cx, tx))
    }
}
