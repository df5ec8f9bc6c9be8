//! What generated methods call: one small function for each thing that the compiler may have to
//! explain to the user.

use std::future::{Ready, ready};
use std::marker::PhantomData;

use super::{BatchError, Context, HandlerError, PersistedEvent};

/// The connection behind `tx`; tells the database of a consumer.
#[diagnostic::on_unimplemented(
    message = "a handler cannot be given `&mut {Self}`, which is no connection",
    label = "not a connection",
    note = "write `tx: &mut SqliteConnection` or `tx: &mut PgConnection`, or another type that implements `sqlx::Connection`"
)]
pub trait Transaction {
    /// The database that it is a connection to.
    type Database: sqlx::Database<Connection = Self>;
}

#[diagnostic::do_not_recommend]
impl<C: sqlx::Connection> Transaction for C {
    type Database = C::Database;
}

/// Gives a name to the mistake of ending the worker's transaction (R4).
///
/// The methods of `Transaction`, which ends what the handler itself began, are inherent and found
/// first.
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

/// Nothing that a handler is given; exists for its error message.
#[diagnostic::on_unimplemented(
    message = "the worker commits after the handler returned `Ok`: remove this call; to undo, return an error",
    label = "the worker's transaction",
    note = "`tx.begin()` makes a savepoint, which a handler may commit and roll back"
)]
pub trait EndsTransaction {}

/// A connection to the database `DB`.
#[diagnostic::on_unimplemented(
    message = "this handler takes a `{Self}`, and another of the same consumer takes a connection to `{DB}`",
    label = "another database",
    note = "the handlers of a consumer share one transaction: write one `impl` block and one type for each database"
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

/// Gives a handler its connection.
pub fn transaction<DB: sqlx::Database, T: TransactionOf<DB>>(
    connection: &mut DB::Connection,
) -> &mut T {
    T::of(connection)
}

/// What a handler of one event can be lent.
#[diagnostic::on_unimplemented(
    message = "a handler cannot be lent a `{Self}`",
    label = "neither `consumer::PersistedEvent` nor `consumer::Context`",
    note = "a handler is lent `event: &PersistedEvent` and `cx: &Context`: for a decoded event mark the method `#[on]` and take it by value; if this has one of those two names, it is another crate's: import `consumer::PersistedEvent` or `consumer::Context`"
)]
pub trait Shared {
    /// Picks it out of what there is.
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

/// Chooses how to treat the future of a handler that is lent a `T`. Where that is something which no
/// handler is lent, nothing more is demanded: one message is enough.
pub struct Lent<T: ?Sized>(PhantomData<T>);

impl<T: Shared + ?Sized> Lent<T> {
    /// See [`send`]. Found before [`NotLent::send`], since it is inherent.
    pub fn send<F: Future + Send>(handler: F) -> impl Future<Output = F::Output> + Send {
        handler
    }
}

/// What stands in for the handler's future after a mistake.
pub trait NotLent {
    /// A future that is never run.
    fn send<F: Future>(handler: F) -> impl Future<Output = F::Output> + Send
    where
        Self: Sized,
    {
        drop(handler);
        std::future::pending()
    }
}

impl<T> NotLent for Lent<T> {}

/// Lends a handler the event or the context.
pub fn shared<'a, T: Shared>(cx: &'a Context, event: &'a PersistedEvent) -> &'a T {
    T::pick(cx, event)
}

/// The context, and nothing else.
#[diagnostic::on_unimplemented(
    message = "a handler cannot be lent a `{Self}`",
    label = "not `consumer::Context`",
    note = "beside the transaction and its event a handler is lent `cx: &Context`; if this is another crate's `Context`, import `consumer::Context`"
)]
pub trait IsContext {
    /// The context, as this type.
    fn of(cx: &Context) -> &Self;
}

impl IsContext for Context {
    fn of(cx: &Context) -> &Self {
        cx
    }
}

/// Lends a handler the context.
pub fn context<T: IsContext>(cx: &Context) -> &T {
    T::of(cx)
}

/// The events of a batch, as they are.
#[diagnostic::on_unimplemented(
    message = "a handler cannot be given `&[{Self}]`",
    label = "not `consumer::PersistedEvent`",
    note = "`handle` takes a batch as `events: &[PersistedEvent]`; for runs of one event mark it `#[on]` and take `&[Envelope<'_, E>]`"
)]
pub trait Batch: Sized {
    /// The events, as this type.
    fn of(events: &[PersistedEvent]) -> &[Self];
}

impl Batch for PersistedEvent {
    fn of(events: &[PersistedEvent]) -> &[Self] {
        events
    }
}

/// Gives a handler several events as they are.
#[must_use]
pub fn batch<T: Batch>(events: &[PersistedEvent]) -> &[T] {
    T::of(events)
}

/// The slice that a handler of runs takes; a mistake is told at the parameter's type.
pub fn slice<T>(given: &[T]) -> &[T] {
    given
}

/// What a handler may return.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not a `Result<(), E>`",
    note = "return `Result<(), E>`, where `E` is `HandlerError`, or any error that `?` turns into one: `sqlx::Error`, `anyhow::Error`, an error type of your own, a `String`"
)]
pub trait Outcome {
    /// The result, with the error that the worker deals with.
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

/// The error that a handler may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an error that a handler can return",
    label = "`?` cannot turn `{Self}` into a `HandlerError`",
    note = "implement `std::error::Error` for `{Self}`, and make it `Send` and `Sync`; or return `HandlerError`, which `?` makes of any error"
)]
pub trait IsError {
    /// What the worker deals with.
    fn into_handler_error(self) -> HandlerError;
}

#[diagnostic::do_not_recommend]
impl<E: Into<HandlerError>> IsError for E {
    fn into_handler_error(self) -> HandlerError {
        self.into()
    }
}

/// Demands that a handler's future can move between threads, at the handler; what is around it
/// need not ask again.
pub fn send<F: Future + Send>(handler: F) -> impl Future<Output = F::Output> + Send {
    handler
}

/// Takes what a handler returned.
///
/// # Errors
/// What the handler returned.
pub fn outcome<O: Outcome>(returned: O) -> Result<(), HandlerError> {
    returned.into_result()
}

/// The result of a handler that took the whole batch.
///
/// # Errors
/// The handler's error, with every event under suspicion.
pub fn whole(
    events: &[PersistedEvent],
    result: Result<(), HandlerError>,
) -> Result<usize, BatchError> {
    several(0, events.len(), result).map(|()| events.len())
}

/// The result of a handler that took the event at index `handled`.
///
/// # Errors
/// The handler's error, with that event under suspicion.
pub fn one<T>(handled: usize, result: Result<T, impl Into<HandlerError>>) -> Result<T, BatchError> {
    result.map_err(|error| BatchError::at(handled, error))
}

/// The result of a handler that took `length` events from index `handled` on.
///
/// # Errors
/// The handler's error, with those events under suspicion.
pub fn several(
    handled: usize,
    length: usize,
    result: Result<(), HandlerError>,
) -> Result<(), BatchError> {
    result.map_err(|error| BatchError::within(handled, length, error))
}

/// The events from index `handled` on that go to the same handler as the first of them.
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
