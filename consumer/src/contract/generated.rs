//! Functions that generated methods call, one for each mistake that the compiler has to explain.

use std::future::{Ready, ready};
use std::marker::PhantomData;

use super::{BatchError, Context, HandlerError, PersistedEvent};

/// The connection behind `tx`, from which a consumer's database follows.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `&mut {Self}`, which is not a connection",
    label = "not a connection",
    note = "write `tx: &mut SqliteConnection` or `tx: &mut PgConnection`, or another type that implements `sqlx::Connection`"
)]
pub trait Transaction {
    /// The database of the connection.
    type Database: sqlx::Database<Connection = Self>;
}

#[diagnostic::do_not_recommend]
impl<C: sqlx::Connection> Transaction for C {
    type Database = C::Database;
}

/// Explains the mistake of ending the worker's transaction (R4).
///
/// The methods of `sqlx::Transaction`, which end what the handler itself began, are inherent and
/// found first.
pub trait EndsNoTransaction: Sized {
    /// Is refused.
    fn commit(self) -> Ready<Result<(), sqlx::Error>>
    where
        Self: EndsTransaction,
    {
        ready(Ok(()))
    }

    /// Is refused.
    fn rollback(self) -> Ready<Result<(), sqlx::Error>>
    where
        Self: EndsTransaction,
    {
        ready(Ok(()))
    }
}

impl<C: sqlx::Connection> EndsNoTransaction for &mut C {}

/// Implemented by no type; exists for its error message.
#[diagnostic::on_unimplemented(
    message = "the worker commits after the handler returned `Ok`: remove this call; to undo, return an error",
    label = "the worker's transaction",
    note = "`tx.begin()` makes a savepoint, which a handler may commit and roll back"
)]
pub trait EndsTransaction {}

/// A connection to the database `DB`.
#[diagnostic::on_unimplemented(
    message = "this handler takes a `{Self}`, but another of the same consumer takes a connection to `{DB}`",
    label = "another database",
    note = "the handlers of a consumer share one transaction: write a type with its own `impl` block for each database"
)]
pub trait TransactionOf<DB: sqlx::Database> {
    /// The connection, as this type.
    fn of(connection: &mut DB::Connection) -> &mut Self;
}

#[diagnostic::do_not_recommend]
impl<DB: sqlx::Database<Connection = C>, C> TransactionOf<DB> for C {
    fn of(connection: &mut C) -> &mut C {
        connection
    }
}

/// Passes the connection to a handler.
pub fn transaction<DB: sqlx::Database, T: TransactionOf<DB>>(
    connection: &mut DB::Connection,
) -> &mut T {
    T::of(connection)
}

/// What a handler of one event can borrow.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take a `&{Self}`",
    label = "neither `consumer::PersistedEvent` nor `consumer::Context`",
    note = "a handler takes `event: &PersistedEvent` and `cx: &Context`: for a decoded event mark the method `#[on]` and take it by value; a type of one of these two names comes from another crate: import `consumer::PersistedEvent` or `consumer::Context`"
)]
pub trait Shared {
    /// Returns the event or the context.
    fn pick<'a>(cx: &'a Context, event: &'a PersistedEvent) -> &'a Self;
}

impl Shared for PersistedEvent {
    fn pick<'a>(_: &'a Context, event: &'a PersistedEvent) -> &'a Self {
        event
    }
}

impl Shared for Context {
    fn pick<'a>(cx: &'a Context, _: &'a PersistedEvent) -> &'a Self {
        cx
    }
}

/// Checks the future of a handler that borrows a `T`. If a handler cannot borrow a `T`, which is
/// reported elsewhere, nothing more is required of the future.
pub struct Lent<T: ?Sized>(PhantomData<T>);

impl<T: Shared + ?Sized> Lent<T> {
    /// See [`send`]. Found before [`NotLent::send`], since it is inherent.
    pub fn send<F: Future + Send>(handler: F) -> impl Future<Output = F::Output> + Send {
        handler
    }
}

/// Replaces the handler's future after a mistake.
pub trait NotLent {
    /// Returns a future that is never run.
    fn send<F: Future>(handler: F) -> impl Future<Output = F::Output> + Send
    where
        Self: Sized,
    {
        drop(handler);
        std::future::pending()
    }
}

impl<T> NotLent for Lent<T> {}

/// Passes the event or the context to a handler.
pub fn shared<'a, T: Shared>(cx: &'a Context, event: &'a PersistedEvent) -> &'a T {
    T::pick(cx, event)
}

/// Implemented by the context alone.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take a `&{Self}`",
    label = "not `consumer::Context`",
    note = "beside the transaction and its event a handler takes `cx: &Context`; if this is another crate's `Context`, import `consumer::Context`"
)]
pub trait IsContext {
    /// Returns the context as this type.
    fn of(cx: &Context) -> &Self;
}

impl IsContext for Context {
    fn of(cx: &Context) -> &Self {
        cx
    }
}

/// Passes the context to a handler.
pub fn context<T: IsContext>(cx: &Context) -> &T {
    T::of(cx)
}

/// The events of a batch, undecoded.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `&[{Self}]`",
    label = "not `consumer::PersistedEvent`",
    note = "`handle` takes a batch as `events: &[PersistedEvent]`; for runs of one event mark it `#[on]` and take `&[Envelope<'_, E>]`"
)]
pub trait Batch: Sized {
    /// Returns the events as this type.
    fn of(events: &[PersistedEvent]) -> &[Self];
}

impl Batch for PersistedEvent {
    fn of(events: &[PersistedEvent]) -> &[Self] {
        events
    }
}

/// Passes several events to a handler, undecoded.
#[must_use]
pub fn batch<T: Batch>(events: &[PersistedEvent]) -> &[T] {
    T::of(events)
}

/// Passes a run of decoded events to a handler; a mismatch is reported at the parameter's type.
pub fn slice<T>(given: &[T]) -> &[T] {
    given
}

/// What a handler may return.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not a `Result<(), E>`",
    note = "return `Result<(), E>`, where `E` is `HandlerError` or any error that `?` converts into it: `sqlx::Error`, `anyhow::Error`, an error type of your own, a `String`"
)]
pub trait Outcome {
    /// Converts the error into the one that the worker takes.
    ///
    /// # Errors
    /// What the handler returned.
    fn into_result(self) -> Result<(), HandlerError>;
}

impl<E: IsError> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), HandlerError> {
        self.map_err(IsError::into_handler_error)
    }
}

/// An error that a handler may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an error that a handler can return",
    label = "`?` cannot convert `{Self}` into a `HandlerError`",
    note = "implement `std::error::Error` for `{Self}`, and make it `Send` and `Sync`; or return `HandlerError`, into which `?` converts every error"
)]
pub trait IsError {
    /// Converts into the error that the worker takes.
    fn into_handler_error(self) -> HandlerError;
}

#[diagnostic::do_not_recommend]
impl<E: Into<HandlerError>> IsError for E {
    fn into_handler_error(self) -> HandlerError {
        self.into()
    }
}

/// Requires the handler's future to be `Send`, so that the mistake is reported at the handler and not
/// at its callers.
pub fn send<F: Future + Send>(handler: F) -> impl Future<Output = F::Output> + Send {
    handler
}

/// Converts what a handler returned.
///
/// # Errors
/// What the handler returned.
pub fn outcome<O: Outcome>(returned: O) -> Result<(), HandlerError> {
    returned.into_result()
}

/// Converts the result of a handler that took the whole batch.
///
/// # Errors
/// The handler's error, with every event as a suspect.
pub fn whole(
    events: &[PersistedEvent],
    result: Result<(), HandlerError>,
) -> Result<usize, BatchError> {
    several(0, events.len(), result).map(|()| events.len())
}

/// Converts the result of a handler that took the event at index `handled`.
///
/// # Errors
/// The handler's error, with that event as the suspect.
pub fn one<T>(handled: usize, result: Result<T, impl Into<HandlerError>>) -> Result<T, BatchError> {
    result.map_err(|error| BatchError::at(handled, error))
}

/// Converts the result of a handler that took `length` events from index `handled` on.
///
/// # Errors
/// The handler's error, with those events as suspects.
pub fn several(
    handled: usize,
    length: usize,
    result: Result<(), HandlerError>,
) -> Result<(), BatchError> {
    result.map_err(|error| BatchError::within(handled, length, error))
}

/// Returns the events from index `handled` on that go to the same handler as the first of them.
pub fn run(
    events: &[PersistedEvent],
    handled: usize,
    handler_of: impl Fn(&PersistedEvent) -> usize,
) -> &[PersistedEvent] {
    let rest = events.get(handled..).unwrap_or_default();
    rest.chunk_by(|one, next| handler_of(one) == handler_of(next))
        .next()
        .unwrap_or_default()
}
