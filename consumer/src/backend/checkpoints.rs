//! The consumer half of a backend: checkpoints, their claims, and parked events.

use std::future::Future;
use std::time::Duration;

use sqlx::Database;
use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;

use super::StoreSettings;
use super::frontier::Incarnation;
use super::rows::{
    Advance, Aggregate, Checkpoint, Claim, ConsumerId, Enrolment, NewCheckpoint, Parking, SegmentId,
};

/// How long a row waits for its neighbour after whoever merges them last said so.
pub(crate) const HOLD_FOR: Duration = Duration::from_secs(10);

/// What the thread of a connection is to do once, such as staying on a core.
pub(crate) type OnThread = Box<dyn FnOnce() + Send>;

/// What a worker asks of a database about checkpoints and the connections that change them.
pub trait Checkpoints: Database {
    /// What tells that a handler ended its worker's transaction; lives beside a connection.
    type Guard: TransactionGuard;

    /// The statements of one mapping.
    type CheckpointStatements: Send + Sync + 'static;

    /// Writes the statements out.
    fn checkpoint_statements(settings: &StoreSettings) -> Self::CheckpointStatements;

    /// Whether a claim can be held for long without keeping other writers out.
    const HOLDS_CLAIMS: bool;

    /// How many connections may be in a transaction that writes at the same time; `None` for as
    /// many as there are.
    const WRITERS: Option<usize>;

    /// Whether lanes and the connections that they write on share one core unless the builder says
    /// otherwise.
    const LANES_ON_ONE_CORE: bool;

    /// How many batches a transaction holds at most while lanes wait for connections.
    const MOST_BATCHES: usize;

    /// The statement that begins a lane's transaction.
    const BEGIN_BATCH: &'static str;

    /// The statement that begins a transaction which only reads.
    const BEGIN_READ: &'static str;

    /// Begins to watch a connection. Its thread, if it has one, calls `on_thread` once.
    fn guard(
        connection: &mut PoolConnection<Self>,
        on_thread: Option<OnThread>,
    ) -> impl Future<Output = Result<Self::Guard, sqlx::Error>> + Send;

    /// Lets the thread of a connection that reads, if it has one, call `on_thread` once.
    fn on_thread(
        connection: &mut PoolConnection<Self>,
        on_thread: OnThread,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Makes the rows of consumers that have none, and lets stopped consumers try again.
    fn enroll(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        enrolments: &[Enrolment],
        settled: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Divides a row in two at a slice, both at the same position; says whether it did. Waits for
    /// whoever has claimed the row, but not for long.
    fn split(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        at: i32,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Keeps two neighbouring rows from going further than the one that is ahead, for [`HOLD_FOR`].
    fn hold(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        left: &SegmentId,
        right: &SegmentId,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Makes one row of two neighbours that stand at one position; says whether it did. An event
    /// that has failed in one of them has all its attempts before it again: the row would wait for
    /// ever for the two to agree in that.
    fn merge(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        left: &SegmentId,
        right: &SegmentId,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Reads all checkpoint rows, also those of consumers that this process does not have.
    fn snapshot(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<Checkpoint>, sqlx::Error>> + Send;

    /// Takes the row lock of a checkpoint; `None` when another process has it.
    fn claim(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        timeout: Duration,
    ) -> impl Future<Output = Result<Option<Claim>, sqlx::Error>> + Send;

    /// Saves the checkpoint of a claim, if claim and transaction are still the same.
    fn save(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        claim: &Claim,
        new: &NewCheckpoint,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// The aggregates of a row's slices of which events are parked; only under the row's claim.
    fn parked_aggregates(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        slice_to: i32,
    ) -> impl Future<Output = Result<Vec<Aggregate>, sqlx::Error>> + Send;

    /// Counts the aggregates of a consumer, over all its rows, of which events are parked, up to a
    /// number.
    fn count_parked(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        limit: i64,
    ) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;

    /// How many events each consumer has set aside.
    fn parked_counts(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<(ConsumerId, i64)>, sqlx::Error>> + Send;

    /// Sets events aside; only under the row's claim.
    fn park(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        events: &[Parking<'_>],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Moves idle checkpoints along, as far as nothing in their scope lies in between, if the server
    /// still lives the incarnation in which that was seen.
    fn advance(
        statements: &Self::CheckpointStatements,
        connection: &mut Self::Connection,
        incarnation: Incarnation,
        moves: &[Advance],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether the connection is no longer in the claim's transaction, after a handler failed: then
    /// the handler ended it (R4). Where a [`TransactionGuard`] sees that, this need not.
    fn has_left(
        connection: &mut Self::Connection,
        claim: &Claim,
    ) -> impl Future<Output = bool> + Send;

    /// Lets the server know that the claim's process is alive.
    fn touch(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Ends the statement that a handler left running on another connection.
    fn terminate(
        connection: &mut Self::Connection,
        backend: i32,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether the error says something of the database's health rather than of the statement.
    fn is_infrastructure(error: &dyn DatabaseError) -> bool;

    /// Whether the error says that the server ended a transaction that was idle for too long.
    fn is_claim_timeout(error: &dyn DatabaseError) -> bool;

    /// Whether the error says that an earlier one was ignored in the same transaction.
    fn is_aborted_transaction(error: &dyn DatabaseError) -> bool;

    /// Whether the error is the refusal of a handler's own `COMMIT` (R4).
    fn is_refused_commit(error: &dyn DatabaseError) -> bool;
}

/// Tells whether a handler ended the transaction of its worker (R4).
pub trait TransactionGuard: Send + Sync + 'static {
    /// Lets the worker itself end the transaction, or forbids it to everyone again.
    fn allow_end(&self, allowed: bool);

    /// Ends the statement that is running, where no server can be asked to; the connection is not
    /// used again.
    fn give_up(&self);

    /// The statement that was refused or seen, if there was one.
    fn violation(&self) -> Option<&'static str>;
}
