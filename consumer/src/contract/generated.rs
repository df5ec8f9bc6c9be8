//! The functions that generated methods call: one for each mistake that the compiler may have to
//! explain.

use std::borrow::Cow;
use std::future::{Ready, ready};
use std::marker::PhantomData;

use super::{BatchError, Context, HandlerError, PersistedEvent};

/// The connection behind `tx`, which determines the database of a consumer.
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

/// A type that threads can share. Generated implementations assume it of the consumer, so that the
/// compiler reports a type that is not once, and not at every handler again.
pub trait Shareable: Send + Sync + 'static {}

impl<T: Send + Sync + 'static> Shareable for T {}

/// Turns an attempt to end the worker's transaction into a message of its own (R4).
///
/// The methods of sqlx's `Transaction`, which end a savepoint of the handler, are inherent and take
/// precedence.
pub trait EndsNoTransaction: Sized {
    /// Refused at compile time.
    fn commit(self) -> Ready<Result<(), sqlx::Error>>
    where
        Self: EndsTransaction,
    {
        ready(Ok(()))
    }

    /// Refused at compile time.
    fn rollback(self) -> Ready<Result<(), sqlx::Error>>
    where
        Self: EndsTransaction,
    {
        ready(Ok(()))
    }
}

impl<C: sqlx::Connection> EndsNoTransaction for &mut C {}

/// Implemented by nothing: it exists for its error message.
#[diagnostic::on_unimplemented(
    message = "a handler cannot end the worker's transaction: remove this call, since the worker commits after `Ok` and rolls back after an error",
    label = "the worker's transaction",
    note = "a handler may commit and roll back a savepoint, which `tx.begin()` makes"
)]
pub trait EndsTransaction {}

/// A connection to the database `DB`.
#[diagnostic::on_unimplemented(
    message = "this handler takes a `{Self}`, but another one of this consumer takes a connection to `{DB}`",
    label = "another database",
    note = "the handlers of a consumer share one transaction: write one type with its own `impl` block for each database"
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

/// Passes a handler its connection.
pub fn transaction<DB: sqlx::Database, T: TransactionOf<DB>>(
    connection: &mut DB::Connection,
) -> &mut T {
    T::of(connection)
}

/// A type that a handler of one event takes by shared reference.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `&{Self}`",
    label = "neither `consumer::PersistedEvent` nor `consumer::Context`",
    note = "write `event: &PersistedEvent` or `cx: &Context`, both from `consumer`; to take a decoded event, mark the method `#[on]` and take the event by value"
)]
pub trait Shared {
    /// The one of the two that has this type.
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

/// Requires `Send` of the future of a handler that takes a `&T`, unless no handler takes a `&T`: then
/// that is the only message.
pub struct Borrowed<T: ?Sized>(PhantomData<T>);

impl<T: Shared + ?Sized> Borrowed<T> {
    /// [`send`]. Takes precedence over [`NotBorrowed::send`], since it is inherent.
    pub fn send<F: Future + Send>(handler: F) -> impl Future<Output = F::Output> + Send {
        handler
    }
}

/// Replaces the handler's future after a mistake.
pub trait NotBorrowed {
    /// A future that never runs.
    fn send<F: Future>(handler: F) -> impl Future<Output = F::Output> + Send
    where
        Self: Sized,
    {
        drop(handler);
        std::future::pending()
    }
}

impl<T> NotBorrowed for Borrowed<T> {}

/// Passes a handler the event or the context.
pub fn shared<'a, T: Shared>(cx: &'a Context, event: &'a PersistedEvent) -> &'a T {
    T::pick(cx, event)
}

/// The context.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `&{Self}`",
    label = "not `consumer::Context`",
    note = "write `cx: &Context`, from `consumer`; a decoded event is passed by value"
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

/// Passes a handler the context.
pub fn context<T: IsContext>(cx: &Context) -> &T {
    T::of(cx)
}

/// The undecoded events of a batch.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `&[{Self}]`",
    label = "not `consumer::PersistedEvent`",
    note = "write `events: &[PersistedEvent]`; to take runs of one type of event, mark the method `#[on]` and write `events: &[Envelope<'_, E>]`"
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

/// Passes a handler several undecoded events.
#[must_use]
pub fn batch<T: Batch>(events: &[PersistedEvent]) -> &[T] {
    T::of(events)
}

/// The slice of a handler of runs. A mistake is reported at the type of its parameter.
pub fn slice<T>(given: &[T]) -> &[T] {
    given
}

/// The return types of handlers.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not a `Result<(), E>`",
    note = "write `Result<(), HandlerError>`, or another error that `?` converts: `sqlx::Error`, `anyhow::Error`, your own error type, a `String`"
)]
pub trait Outcome {
    /// The result with a [`HandlerError`].
    ///
    /// # Errors
    /// The handler's error.
    fn into_result(self) -> Result<(), HandlerError>;
}

impl<E: IsError> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), HandlerError> {
        self.map_err(IsError::into_handler_error)
    }
}

/// The errors of handlers.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return the error `{Self}`",
    label = "`?` cannot convert `{Self}` into `HandlerError`",
    note = "implement `std::error::Error` for `{Self}` and make it `Send` and `Sync`, or return `HandlerError`"
)]
pub trait IsError {
    /// The error that the worker handles.
    fn into_handler_error(self) -> HandlerError;
}

#[diagnostic::do_not_recommend]
impl<E: Into<HandlerError>> IsError for E {
    fn into_handler_error(self) -> HandlerError {
        self.into()
    }
}

/// Requires at the handler that its future is `Send`, so that the surrounding future is too.
pub fn send<F: Future + Send>(handler: F) -> impl Future<Output = F::Output> + Send {
    handler
}

/// Converts the result of a handler.
///
/// # Errors
/// The handler's error.
pub fn outcome<O: Outcome>(returned: O) -> Result<(), HandlerError> {
    returned.into_result()
}

/// Converts the result of a handler that took the whole batch.
///
/// # Errors
/// The handler's error, which any event of the batch may have caused.
pub fn whole(
    events: &[PersistedEvent],
    result: Result<(), HandlerError>,
) -> Result<usize, BatchError> {
    several(0, events.len(), result).map(|()| events.len())
}

/// Converts the result of a handler that took the event at index `handled`.
///
/// # Errors
/// The handler's error, which that event caused.
pub fn one<T>(handled: usize, result: Result<T, impl Into<HandlerError>>) -> Result<T, BatchError> {
    result.map_err(|error| BatchError::at(handled, error))
}

/// Converts the result of a handler that took `length` events from index `handled` on.
///
/// # Errors
/// The handler's error, which any of those events may have caused.
pub fn several(
    handled: usize,
    length: usize,
    result: Result<(), HandlerError>,
) -> Result<(), BatchError> {
    result.map_err(|error| BatchError::within(handled, length, error))
}

/// The events from index `handled` on up to the last that has the same handler as the first, with those
/// between them that no handler takes.
pub fn run(
    events: &[PersistedEvent],
    handled: usize,
    handler_of: impl Fn(&PersistedEvent) -> Option<usize>,
) -> &[PersistedEvent] {
    let rest = events.get(handled..).unwrap_or_default();
    let own = rest.first().and_then(&handler_of);
    let mut length = 0;
    for (before, event) in rest.iter().enumerate() {
        match handler_of(event) {
            None => {}
            taker if taker == own => length = before + 1,
            Some(_) => break,
        }
    }
    rest.get(..length).unwrap_or_default()
}

/// Whether a consumer passes over an event.
#[must_use]
pub fn is_ignored(event: &PersistedEvent, ignored: &[&str]) -> bool {
    ignored.contains(&&*event.event_type)
}

/// The events of a batch that are not passed over. Usually these are all of them, and nothing is copied.
#[must_use]
pub fn not_ignored<'a>(
    events: &'a [PersistedEvent],
    ignored: &[&str],
) -> Cow<'a, [PersistedEvent]> {
    taken(events, |event| (!is_ignored(event, ignored)).then_some(0))
}

/// The events from index `handled` on up to the next that is passed over.
#[must_use]
pub fn up_to_ignored<'a>(
    events: &'a [PersistedEvent],
    handled: usize,
    ignored: &[&str],
) -> &'a [PersistedEvent] {
    let rest = events.get(handled..).unwrap_or_default();
    let mut each = rest.iter();
    let next = each.position(|event| is_ignored(event, ignored));
    next.and_then(|next| rest.get(..next)).unwrap_or(rest)
}

/// Converts the result of a handler that counts itself how many of `length` events, from index `handled` on,
/// it handles.
///
/// # Errors
/// The handler's error, with the indices of the batch.
pub fn part(
    handled: usize,
    length: usize,
    result: Result<usize, BatchError>,
) -> Result<usize, BatchError> {
    match result {
        Ok(done) => Ok(done.min(length)),
        // After its last event, so any of them may have caused it.
        Err(error) if error.handled >= length => {
            Err(BatchError::within(handled, length, error.error))
        }
        Err(error) => Err(BatchError {
            handled: handled.saturating_add(error.handled),
            ..error
        }),
    }
}

/// The events of a run that have a handler. Usually these are all of them, and nothing is copied.
pub fn taken(
    run: &[PersistedEvent],
    handler_of: impl Fn(&PersistedEvent) -> Option<usize>,
) -> Cow<'_, [PersistedEvent]> {
    let is_taken = |event: &&PersistedEvent| handler_of(event).is_some();
    if run.iter().all(|event| is_taken(&event)) {
        return Cow::Borrowed(run);
    }
    run.iter().filter(is_taken).cloned().collect()
}
