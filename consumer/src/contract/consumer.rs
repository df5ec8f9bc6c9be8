//! The traits that everything rests on (R1–R9).

use std::future::Future;
use std::pin::Pin;

use sqlx::Database;

use super::{BatchError, Context, HandlerError, PersistedEvent, Settings};

/// The unit of event processing: it receives persisted events, one after the other, and causes an
/// effect.
///
/// `#[consumer]` writes this implementation; by hand it looks like this:
///
/// ```
/// use consumer::{Consumer, Context, HandlerError, PersistedEvent};
/// use consumer::sqlx::Database;
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
/// }
/// ```
///
/// `tx` is the transaction that also saves the checkpoint (R3). It is sqlx's own type for «inside
/// somebody's transaction»: it can neither commit nor roll back, and raw SQL that tries is refused
/// with nothing of the batch saved (R4). A nested `begin()` is a savepoint and is fine.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a consumer for the database `{DB}`",
    label = "no `Consumer<{DB}>` here",
    note = "put `#[consumer(name = \"…\")]` on an `impl {Self} {{ … }}` block with an `async fn handle`, or implement `Consumer<{DB}>` by hand"
)]
pub trait Consumer<DB: Database>: Send + Sync + 'static {
    /// The unique name, which keys the checkpoint (R1).
    ///
    /// See [`Consumer`] for an example.
    fn name(&self) -> &str;

    /// Processes one event.
    ///
    /// See [`Consumer`] for an example.
    ///
    /// # Errors
    /// Whatever stops the consumer before this event (R2).
    fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Processes the events of one transaction, in order, and says how many it handled; fewer than
    /// given when it stopped early at an event boundary, never zero of a non-empty batch.
    ///
    /// The worker calls this one. It loops over [`handle`](Self::handle) unless a consumer that
    /// works on whole batches says otherwise.
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
    ///             // It is one of them; the worker finds out which by halving the batch.
    ///             .map_err(|error| BatchError::within(0, events.len(), error))?;
    ///         Ok(events.len())
    ///     }
    /// }
    /// # async fn index(_: &[PersistedEvent]) -> Result<(), HandlerError> { Ok(()) }
    /// ```
    ///
    /// # Errors
    /// How many events succeeded, and what went wrong then.
    fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> impl Future<Output = Result<usize, BatchError>> + Send {
        async move {
            for (handled, event) in events.iter().enumerate() {
                if handled > 0 && cx.should_stop(handled) {
                    return Ok(handled);
                }
                cx.enter(event.global_position);
                if let Err(error) = self.handle(cx, tx, event).await {
                    return Err(BatchError::at(handled, error));
                }
            }
            Ok(events.len())
        }
    }

    /// How the consumer wants to be run, unless the worker's builder says otherwise.
    ///
    /// ```
    /// use consumer::sqlx::Database;
    /// use consumer::{Consumer, Context, HandlerError, PersistedEvent, Settings};
    ///
    /// /// Writes to a search engine: nothing here needs the transaction.
    /// struct SearchIndex;
    ///
    /// impl<DB: Database> Consumer<DB> for SearchIndex {
    /// #   fn name(&self) -> &str { "search_index" }
    /// #   async fn handle(&self, _: &Context, _: &mut DB::Connection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    ///     // `name` and `handle`, and:
    ///     fn settings(&self) -> Settings {
    ///         Settings::DEFAULT.batch_size(50).retries(20)
    ///     }
    ///
    ///     fn uses_transaction(&self) -> bool {
    ///         false
    ///     }
    /// }
    /// ```
    fn settings(&self) -> Settings {
        Settings::DEFAULT
    }

    /// Whether the consumer writes through the transaction. One whose target is not this database
    /// says `false` (R5), and no transaction is kept waiting for it.
    ///
    /// See [`settings`](Self::settings) for an example.
    fn uses_transaction(&self) -> bool {
        true
    }

    /// Whether the consumer knows how to empty its read model.
    ///
    /// See [`reset`](Self::reset) for an example.
    fn can_reset(&self) -> bool {
        false
    }

    /// Empties the read model when a rebuild begins, in the transaction that moves the checkpoint
    /// back.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")] {
    /// use consumer::sqlx::{self, Sqlite, SqliteConnection};
    /// use consumer::{Consumer, Context, HandlerError, PersistedEvent};
    ///
    /// struct Users;
    ///
    /// impl Consumer<Sqlite> for Users {
    /// #   fn name(&self) -> &str { "users" }
    /// #   async fn handle(&self, _: &Context, _: &mut SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    ///     // `name` and `handle`, and:
    ///     fn can_reset(&self) -> bool {
    ///         true
    ///     }
    ///
    ///     async fn reset(&self, _cx: &Context, tx: &mut SqliteConnection) -> Result<(), HandlerError> {
    ///         sqlx::query("DELETE FROM users").execute(tx).await?;
    ///         Ok(())
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Whatever keeps the rebuild from beginning.
    fn reset(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (cx, tx);
        async { Ok(()) }
    }
}

/// A consumer that only wants the events of some aggregate types (R7).
///
/// Implementing it is optional: a consumer that is not scoped receives every event (R8).
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no scope",
    label = "no `ScopedConsumer<{DB}>` here",
    note = "add `aggregates = [\"…\"]` to its `#[consumer]`, or implement `ScopedConsumer<{DB}>` by hand"
)]
///
/// ```
/// # use consumer::{Consumer, Context, HandlerError, PersistedEvent};
/// use consumer::ScopedConsumer;
/// use consumer::sqlx::Database;
///
/// struct Users;
/// # impl<DB: Database> Consumer<DB> for Users {
/// #     fn name(&self) -> &str { "users" }
/// #     async fn handle(&self, _: &Context, _: &mut DB::Connection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
/// # }
///
/// impl<DB: Database> ScopedConsumer<DB> for Users {
///     fn aggregate_types(&self) -> &[&str] {
///         &["User"]
///     }
/// }
/// ```
pub trait ScopedConsumer<DB: Database>: Consumer<DB> {
    /// The aggregate types, compared exactly and case-sensitively. An empty list means every event.
    ///
    /// See [`ScopedConsumer`] for an example.
    fn aggregate_types(&self) -> &[&str];
}

/// What a struct under `#[consumer(…)]` implements by hand; the attribute adds the name, the scope
/// and the registration.
///
/// ```
/// use consumer::{Context, Handler, HandlerError, PersistedEvent};
/// use consumer::sqlx::Database;
///
/// struct Printer;
///
/// impl<DB: Database> Handler<DB> for Printer {
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
    /// Processes one event.
    ///
    /// See [`Handler`] for an example.
    ///
    /// # Errors
    /// Whatever stops the consumer before this event (R2).
    fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Processes the events of one transaction; see [`Consumer::handle_batch`], also for an example.
    ///
    /// # Errors
    /// How many events succeeded, and what went wrong then.
    fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> impl Future<Output = Result<usize, BatchError>> + Send {
        async move {
            for (handled, event) in events.iter().enumerate() {
                if handled > 0 && cx.should_stop(handled) {
                    return Ok(handled);
                }
                cx.enter(event.global_position);
                if let Err(error) = self.handle(cx, tx, event).await {
                    return Err(BatchError::at(handled, error));
                }
            }
            Ok(events.len())
        }
    }

    /// Whether there is a [`reset`](Self::reset).
    ///
    /// See [`Consumer::reset`] for an example of both.
    fn can_reset(&self) -> bool {
        false
    }

    /// Empties the read model; see [`Consumer::reset`], also for an example.
    ///
    /// # Errors
    /// Whatever keeps the rebuild from beginning.
    fn reset(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (cx, tx);
        async { Ok(()) }
    }
}

/// The boxed future of one batch.
///
/// Only [`ErasedConsumer`] returns it, so that no consumer names it; see there for an example.
pub type BatchFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`Consumer`] as the worker holds it: boxed once a batch, never once an event.
///
/// Whatever is a [`Consumer`] is one of these too, so nobody implements it; it is the type of
/// [`Registered::consumer`](crate::Registered::consumer).
///
/// ```
/// use consumer::sqlx::Database;
/// use consumer::{BatchError, Context, PersistedEvent, Registered};
///
/// /// Hands one batch to a consumer of whatever type, as a worker does.
/// async fn hand_over<DB: Database>(
///     registered: &Registered<DB>,
///     tx: &mut DB::Connection,
///     events: &[PersistedEvent],
/// ) -> Result<usize, BatchError> {
///     let cx = Context::new(registered.consumer.name());
///     // A `BatchFuture`.
///     registered.consumer.handle_batch(&cx, tx, events).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a consumer for the database `{DB}`",
    label = "no `Consumer<{DB}>` here",
    note = "put `#[consumer(name = \"…\")]` on an `impl {Self} {{ … }}` block with an `async fn handle`, or implement `Consumer<{DB}>` by hand: whatever implements it is an `ErasedConsumer<{DB}>`"
)]
pub trait ErasedConsumer<DB: Database>: Send + Sync + 'static {
    /// See [`Consumer::name`], and [`ErasedConsumer`] for an example.
    fn name(&self) -> &str;

    /// See [`Consumer::handle_batch`], and [`ErasedConsumer`] for an example.
    fn handle_batch<'a>(
        &'a self,
        cx: &'a Context,
        tx: &'a mut DB::Connection,
        events: &'a [PersistedEvent],
    ) -> BatchFuture<'a, Result<usize, BatchError>>;

    /// See [`Consumer::uses_transaction`], and [`Consumer::settings`] for an example.
    fn uses_transaction(&self) -> bool;

    /// See [`Consumer::can_reset`], and [`Consumer::reset`] for an example.
    fn can_reset(&self) -> bool;

    /// See [`Consumer::reset`], also for an example.
    fn reset<'a>(
        &'a self,
        cx: &'a Context,
        tx: &'a mut DB::Connection,
    ) -> BatchFuture<'a, Result<(), HandlerError>>;
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
    ) -> BatchFuture<'a, Result<usize, BatchError>> {
        Box::pin(Consumer::handle_batch(self, cx, tx, events))
    }

    fn uses_transaction(&self) -> bool {
        Consumer::uses_transaction(self)
    }

    fn can_reset(&self) -> bool {
        Consumer::can_reset(self)
    }

    fn reset<'a>(
        &'a self,
        cx: &'a Context,
        tx: &'a mut DB::Connection,
    ) -> BatchFuture<'a, Result<(), HandlerError>> {
        Box::pin(Consumer::reset(self, cx, tx))
    }
}
