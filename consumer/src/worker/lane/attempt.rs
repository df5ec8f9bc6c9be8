//! One batch, one transaction: claim, handle, save, commit (R3, R4).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::{Connection as _, Transaction};
use tokio::time;

use crate::backend::{
    Access, Backend, Claim, Failure, Ledger, Mark, NewCheckpoint, Parking, Remains, Run, State,
    TransactionGuard as _,
};
use crate::contract::{BatchError, Context, OnError, PersistedEvent};
use crate::worker::connections::{Lease, Parts, UnusedConnection};
use crate::worker::context::Shared;
use crate::worker::lane::backoff::{DATABASE_BACKOFF, delay};
use crate::worker::lane::failure::{
    AttemptError, ErrorKind, Handled, HandlerFailure, SWALLOWED, is_aborted_transaction,
    is_of_session, is_refusal_of_commit, refused_commit, server_timeout, unusable_session,
};
use crate::worker::lane::handler::{Limits, supervise};
use crate::worker::lane::job::Job;
use crate::worker::lane::mark::HeldMark;
use crate::worker::lane::outcome::Outcome;
use crate::worker::lane::parking::{Division, MAX_PARKED};
use crate::worker::lane::segment::Segment;
use crate::worker::log::batch::Defect;
use crate::worker::metrics;
use crate::worker::progress::lane::LaneProgress;
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::tally::Tally;
use crate::worker::timeouts::{Timeouts, after};

/// One attempt at a job.
pub(crate) struct Attempt<'a, DB: Backend> {
    pub(crate) shared: &'a Shared<DB>,
    pub(crate) segment: &'a Segment<DB>,
    pub(crate) progress: &'a LaneProgress,
    pub(crate) job: &'a Job,
}

/// How a transaction begins.
enum Opening {
    /// The handler can be called.
    Ready(Ready),
    /// The policy was applied to the first event, and the transaction must be committed.
    Commit(Outcome),
    /// The job does not fit the row, and the transaction must be rolled back.
    RollBack(Outcome),
}

/// A claimed row and what the handler is given.
struct Ready {
    claim: Box<Claim>,
    cx: Arc<Context>,
    run: Run,
    division: Division,
}

impl<DB: Backend> Attempt<'_, DB> {
    /// Runs the job until it is committed, or to no effect.
    pub(crate) async fn run(&self) -> Result<Outcome, AttemptError> {
        let _permit = self.segment.consumer.permits.acquire().await;
        if self.segment.consumer.uses_transaction() || DB::HOLDS_CLAIMS {
            self.run_under_claim().await
        } else {
            self.run_between_claims().await
        }
    }

    /// Claims, handles, saves and commits in one transaction.
    async fn run_under_claim(&self) -> Result<Outcome, AttemptError> {
        let (mut lease, mut unused) = self.lease().await?;
        let Parts {
            connection,
            guard,
            is_new,
            ended_well,
            mut claimed,
        } = lease.begin()?;
        let begin = connection.begin_with(guard.begin());
        let mut tx = self.shared.answer(begin).await?;
        let ready = match self.shared.answer(self.open(&mut tx)).await? {
            Opening::Ready(ready) if is_new || guard.is_same(&ready.claim.session) => ready,
            Opening::Ready(_) => return Err(AttemptError::StaleConnection),
            Opening::Commit(outcome) => {
                return self.shared.answer(commit(tx, ended_well, outcome)).await;
            }
            Opening::RollBack(outcome) => {
                return self.shared.answer(roll_back(tx, ended_well, outcome)).await;
            }
        };
        claimed.by(ready.claim.backend);
        let handled = self
            .handle_guarded(&ready, &mut tx, unused.as_mut(), guard)
            .await?;
        let outcome = match handled {
            Ok(index) => self.save_and_commit(tx, &ready, index, ended_well).await?,
            Err(failure) => match failure.kind {
                // On a new connection, the handler itself has changed the tables.
                ErrorKind::StalePlan if !is_new => {
                    // The others have such plans too.
                    self.shared.connections.close_idle();
                    return Err(AttemptError::StaleConnection);
                }
                ErrorKind::EndedTransaction => return Ok(failed(&ready, failure)),
                ErrorKind::TimedOut | ErrorKind::ClaimTimeout | ErrorKind::TransactionTimeout => {
                    // Dropping a handler's future does not end its statement, which would keep the row
                    // locked.
                    guard.give_up();
                    self.shared.terminate(&[ready.claim.backend]).await;
                    return Ok(failed(&ready, failure));
                }
                _ => {
                    let undone = undo(tx, ended_well, failed(&ready, failure));
                    return self.shared.answer(undone).await;
                }
            },
        };
        if matches!(outcome, Outcome::Saved { .. }) && connection.is_in_transaction() {
            return Ok(failed(&ready, HandlerFailure::open_savepoint()));
        }
        drop(lease);
        if matches!(outcome, Outcome::Saved { .. }) {
            self.run_effects(&ready.cx).await;
        }
        Ok(outcome)
    }

    /// A connection for the transaction, and one to pass to a handler that does not use it.
    async fn lease(&self) -> Result<(Lease<DB>, Option<UnusedConnection<DB>>), sqlx::Error> {
        let connections = &self.shared.connections;
        if self.segment.consumer.uses_transaction() {
            return Ok((connections.writer().await?, None));
        }
        // Before the claim, which must not wait for it.
        let unused = connections.unused().await?;
        Ok((connections.holder().await?, Some(unused)))
    }

    /// Runs a handler that does not use the transaction where a long claim would keep all other
    /// writers out: the row is claimed before it, and again to save the checkpoint. In between, only
    /// a mark is held.
    async fn run_between_claims(&self) -> Result<Outcome, AttemptError> {
        let ready = match self.open_and_mark().await? {
            Opening::Ready(ready) => ready,
            Opening::Commit(outcome) | Opening::RollBack(outcome) => return Ok(outcome),
        };
        let mark = self.mark(ready.run.is_replay);
        let ended = mark.during(self.handle_and_save(&ready, &mark)).await;
        if matches!(ended, Ok(Outcome::Saved { .. })) {
            self.run_effects(&ready.cx).await;
        } else {
            // It ends by itself otherwise.
            let _ = self.release(&mark).await;
        }
        ended
    }

    async fn handle_and_save(
        &self,
        ready: &Ready,
        mark: &HeldMark<'_, DB>,
    ) -> Result<Outcome, AttemptError> {
        let mut unused = self.shared.connections.unused().await?;
        let handled = self.handle_unused(ready, &mut unused).await;
        drop(unused);
        let handled = handled.map_err(|failure| failure.given(Remains::Open));
        match self.judge(handled, None)? {
            Ok(index) => Ok(self.save_handled(ready, mark, index).await),
            Err(failure) => Ok(failed(ready, failure)),
        }
    }

    /// Opens a transaction like [`open`](Self::open) and ends it at once, except for a mark.
    async fn open_and_mark(&self) -> Result<Opening, AttemptError> {
        let mut lease = self.shared.connections.writer().await?;
        let Parts {
            connection,
            guard,
            ended_well,
            ..
        } = lease.begin()?;
        let mut tx = connection.begin_with(guard.begin()).await?;
        let mut opening = self.open(&mut tx).await?;
        if let Opening::Ready(ready) = &opening {
            let mark = self.mark(ready.run.is_replay);
            let position = ready.claim.checkpoint.position;
            // The row of another version may be gone while its handler still works.
            if !mark.take(&mut tx, position).await? {
                opening = Opening::RollBack(Outcome::Busy);
            }
        }
        match opening {
            Opening::Commit(_) | Opening::Ready(_) => tx.commit().await?,
            Opening::RollBack(_) => tx.rollback().await?,
        }
        *ended_well = true;
        Ok(opening)
    }

    /// The mark of the consumer, as this lane holds it.
    fn mark(&self, is_replay: bool) -> HeldMark<'_, DB> {
        HeldMark {
            pool: self.shared.store.pool(),
            statements: &self.shared.statements,
            holder: self.segment.mark_holder(self.shared, is_replay),
            timeout: self.shared.options.claim_timeout,
        }
    }

    async fn release(&self, mark: &HeldMark<'_, DB>) -> Result<(), AttemptError> {
        let mut lease = self.shared.connections.writer().await?;
        let Parts {
            connection,
            ended_well,
            ..
        } = lease.begin()?;
        mark.release(connection).await?;
        *ended_well = true;
        Ok(())
    }

    /// Claims the row, applies the policy to an event whose attempts are used up, and determines
    /// what is left for the handler.
    async fn open(&self, tx: &mut Transaction<'_, DB>) -> Result<Opening, sqlx::Error> {
        let (statements, segment) = (&self.shared.statements, self.segment);
        let claim = match segment.claim(self.shared, tx).await? {
            Ok(claim) => claim,
            Err(outcome) => return Ok(Opening::RollBack(outcome)),
        };
        let claim = match self.admit(claim) {
            Ok(claim) => claim,
            Err(outcome) => return Ok(Opening::RollBack(outcome)),
        };
        if claim.mark == Mark::Taken {
            return Ok(Opening::RollBack(Outcome::Busy));
        }
        let Some(run) = self.first_run(tx, &claim).await? else {
            return Ok(Opening::RollBack(Outcome::Busy));
        };
        if let Some(event) = self.retried(&claim)
            && self.is_used_up(&claim)
            // No policy applies to what the code does not know.
            && self.job.unknown().is_none()
        {
            let outcome = self.apply_policy(tx, &claim, event, run.is_replay).await?;
            return Ok(Opening::Commit(outcome));
        }
        let events = &self.job.events;
        let division =
            Division::of::<DB>(statements, tx, segment, &claim, events, run.take).await?;
        if self.job.unknown().is_some() && division.take(run.take) > 0 {
            return Ok(Opening::RollBack(Outcome::Unknown));
        }
        Ok(Opening::Ready(Ready {
            cx: self.context(&claim, run.is_replay),
            claim,
            run,
            division,
        }))
    }

    /// The events to handle: all of them replays, or none. `None` while another version of the consumer
    /// is handling events that none has handled.
    async fn first_run(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
    ) -> Result<Option<Run>, sqlx::Error> {
        let take = self.take(claim);
        let events = self.job.events.get(..take).unwrap_or_default();
        if events.is_empty() || !(claim.mark == Mark::Open || claim.is_replaying) {
            let is_replay = false;
            return Ok(Some(Run { take, is_replay }));
        }
        let run = self.ledger(tx, claim).await?.run(events);
        if run.is_replay || claim.mark == Mark::Held {
            return Ok(Some(run));
        }
        let holder = self.segment.mark_holder(self.shared, false);
        if !DB::lock_mark(&self.shared.statements, tx, &holder).await? {
            return Ok(None);
        }
        // Another version may have handled the events before the mark was locked.
        Ok(Some(self.ledger(tx, claim).await?.run(events)))
    }

    /// The events that any version of the consumer has handled after the checkpoint.
    async fn ledger(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
    ) -> Result<Ledger, sqlx::Error> {
        let (row, key) = (&claim.checkpoint, &self.segment.key);
        let slices = key.slice_from..row.slice_to;
        DB::ledger(
            &self.shared.statements,
            tx,
            &key.consumer,
            row.position,
            slices,
        )
        .await
    }

    /// Checks that the job fits the claimed row.
    fn admit(&self, claim: Box<Claim>) -> Result<Box<Claim>, Outcome> {
        let row = &claim.checkpoint;
        if row.state != State::Running || row.scope != self.segment.scope_text() {
            return Err(Outcome::Blocked(claim));
        }
        if row.slice_to != self.segment.slice_to {
            return Err(Outcome::Resized);
        }
        if let Some(hold_at) = row.hold_at.filter(|hold_at| row.position >= *hold_at) {
            return Err(Outcome::Held(hold_at));
        }
        let follows = self.job.checkpoint..=self.job.after;
        if row.epoch != self.job.epoch
            || claim.incarnation != self.job.incarnation
            || !follows.contains(&row.position)
        {
            return Err(Outcome::Moved(claim));
        }
        let release = &self.shared.process.release;
        let next = self.job.position_of(0);
        if next.is_some_and(|next| row.has_failed(release, next)) {
            return Err(Outcome::LeftToOthers(claim));
        }
        // A longer wait than any that is saved means that the clock was set back: it is over.
        let settings = &self.segment.consumer.settings;
        let wait = claim.retry_in.filter(|wait| *wait <= settings.backoff.max);
        let Some(event) = self.retried(&claim) else {
            return Ok(claim);
        };
        let (position, attempts) = (event.global_position, row.attempts);
        // Only the failed event has to wait.
        if let Some(wait) = wait {
            return Err(Outcome::NotDue { attempts, wait });
        }
        // The policy needs no payload, and an event that cannot be handled is read each time.
        let is_handled = !self.is_used_up(&claim) && self.job.defect.is_none();
        if is_handled && self.job.read_after != Some((position, attempts)) {
            return Err(Outcome::Outdated { position, attempts });
        }
        Ok(claim)
    }

    /// The event that has failed according to the row, if it is the first of the job and the row
    /// need not wait for its neighbour before it.
    fn retried(&self, claim: &Claim) -> Option<&PersistedEvent> {
        let row = &claim.checkpoint;
        let first = self.job.events.first()?;
        let position = first.global_position;
        let is_reached = row.hold_at.is_none_or(|hold_at| position <= hold_at);
        let has_failed = row.attempts > 0 && row.failed_position == Some(position);
        (is_reached && has_failed).then_some(first)
    }

    /// Whether this release has used up the attempts at the event that has failed. Attempts that another
    /// release counted say nothing about this code, which gets one of its own at least.
    fn is_used_up(&self, claim: &Claim) -> bool {
        let is_own = claim.release.as_deref() == Some(&*self.shared.process.release);
        is_own && claim.checkpoint.attempts > self.segment.consumer.settings.retries
    }

    /// How many events to handle: an event that has failed is tried alone, and a batch ends where the
    /// row has to wait for its neighbour.
    fn take(&self, claim: &Claim) -> usize {
        if self.retried(claim).is_some() {
            return self.job.take.min(1);
        }
        let hold_at = claim.checkpoint.hold_at;
        let held = hold_at.map_or(usize::MAX, |hold_at| self.job.index_after(hold_at));
        self.job.take.min(held)
    }

    /// The checkpoint once every event before an index in the job is handled.
    fn checkpoint_after(&self, claim: &Claim, index: usize) -> i64 {
        let Some(hold_at) = claim.checkpoint.hold_at else {
            let checkpoint = self.job.checkpoint_after(index);
            return checkpoint.max(claim.checkpoint.position);
        };
        let before_next = self.job.position_of(index).map(|position| position - 1);
        before_next.unwrap_or(self.job.up_to).min(hold_at)
    }

    fn context(&self, claim: &Claim, is_replay: bool) -> Arc<Context> {
        let consumer = &self.segment.consumer;
        let failed = self.retried(claim).map_or(0, |_| claim.checkpoint.attempts);
        Arc::new(
            Context::new(Arc::clone(&self.segment.key.consumer.name))
                .with_log_name(Arc::clone(&self.shared.log_name))
                .with_version(self.segment.key.consumer.version)
                .with_attempt(failed.saturating_add(1))
                .with_replay(is_replay)
                .with_head(self.job.head)
                .with_segments(self.segment.is_divided())
                .with_table_schema(self.shared.table_schema.clone())
                .with_deadline(after(consumer.settings.batch_time)),
        )
    }
}

/// The policy for an event whose attempts are used up.
impl<DB: Backend> Attempt<'_, DB> {
    async fn apply_policy(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        event: &PersistedEvent,
        is_replay: bool,
    ) -> Result<Outcome, sqlx::Error> {
        let (key, policy) = (&self.segment.key, self.segment.consumer.settings.on_error);
        let error = claim.checkpoint.error.clone().unwrap_or_default();
        let position = event.global_position;
        // Of an event that is gone, the aggregate is unknown: later events of it would not wait.
        let is_missing = matches!(self.job.defect, Some(Defect::Missing(_)));
        let parks = policy == OnError::Park && !is_missing && self.may_park(tx).await?;
        if !parks && policy != OnError::Skip {
            let error = if policy == OnError::Park && !is_missing {
                format!(
                    "{MAX_PARKED} aggregates are parked already, so the next one stops the consumer: {error}"
                )
            } else {
                error
            };
            return self.stop(tx, claim, position, error).await;
        }
        let attempts = claim.checkpoint.attempts;
        if parks {
            let failed = Parking {
                event,
                failure: Some((attempts, &error)),
                is_replay,
            };
            DB::park(&self.shared.statements, tx, key, &[failed]).await?;
        }
        let done = if parks { "parked" } else { "skipped" };
        tracing::warn!(consumer = self.segment.name(), position, attempts, %error, "the event is {done}");
        let new = NewCheckpoint {
            position: self.job.checkpoint_after(1),
            state: State::Running,
            failure: None,
        };
        self.segment.save(self.shared, tx, claim, &new).await?;
        Ok(Outcome::Saved {
            position: new.position,
            tally: Tally::of_policy(parks),
        })
    }

    async fn may_park(&self, tx: &mut Transaction<'_, DB>) -> Result<bool, sqlx::Error> {
        let (statements, key) = (&self.shared.statements, &self.segment.key);
        Ok(DB::count_parked(statements, tx, key, MAX_PARKED).await? < MAX_PARKED)
    }

    async fn stop(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        position: i64,
        error: String,
    ) -> Result<Outcome, sqlx::Error> {
        let new = NewCheckpoint {
            position: claim.checkpoint.position,
            state: State::Stopped,
            failure: Some(Failure {
                position,
                attempts: claim.checkpoint.attempts,
                retry_in: Duration::ZERO,
                error: error.clone(),
            }),
        };
        self.segment.save(self.shared, tx, claim, &new).await?;
        Ok(Outcome::Stopped { error })
    }
}

/// Calling the handler.
impl<DB: Backend> Attempt<'_, DB> {
    /// Calls the handler while the claim is held, and watches that it does not end the transaction.
    async fn handle_guarded(
        &self,
        ready: &Ready,
        tx: &mut Transaction<'_, DB>,
        unused: Option<&mut UnusedConnection<DB>>,
        guard: &DB::Guard,
    ) -> Result<Handled, AttemptError> {
        guard.allow_end(false);
        let handled = match unused {
            None => self.handle(ready, tx).await,
            Some(unused) => {
                let handler = self.handle_unused(ready, unused);
                keep_alive::<DB, _>(tx, self.shared.options.claim_timeout, handler).await?
            }
        };
        let mut ended = guard.violation().map(HandlerFailure::ended_with);
        let mut remains = Remains::Open;
        if let Err(failure) = &handled
            && failure.kind != ErrorKind::TimedOut
            && ended.is_none()
        {
            remains = self.shared.answer(look_at(tx, &ready.claim)).await?;
            if remains == Remains::Nothing {
                ended = Some(HandlerFailure::ended_unseen());
            }
        }
        guard.allow_end(true);
        if matches!(&handled, Err(failure) if failure.kind == ErrorKind::Protocol) {
            self.shared.answer(must_answer(tx)).await?;
        }
        self.judge(handled.map_err(|failure| failure.given(remains)), ended)
    }

    /// Determines what the end of a handler means. `ended` says how it ended the transaction, if it did.
    fn judge(
        &self,
        handled: Handled,
        ended: Option<HandlerFailure>,
    ) -> Result<Handled, AttemptError> {
        match (handled, ended) {
            // On a full or broken disk, a database without a server rolls back by itself: nothing
            // was saved, and the connection is not used again.
            (Err(failure), Some(_))
                if failure.kind == ErrorKind::Transient && !DB::HOLDS_CLAIMS =>
            {
                Err(AttemptError::Database(failure.error))
            }
            (_, Some(ended)) => Ok(Err(ended)),
            (Ok(index), None) => Ok(Ok(index)),
            (Err(failure), None) => {
                let claim_timeout = self.shared.options.claim_timeout;
                failure.counted(claim_timeout).map(Err)
            }
        }
    }

    /// Calls a handler with a connection that it does not use.
    async fn handle_unused(&self, ready: &Ready, unused: &mut UnusedConnection<DB>) -> Handled {
        let connection = unused.begin().map_err(|error| BatchError::at(0, error));
        let connection = connection.map_err(|error| self.failure(ready, &error))?;
        let handled = self.handle(ready, connection).await;
        if !matches!(&handled, Err(failure) if failure.kind == ErrorKind::TimedOut) {
            unused.set_idle();
        }
        handled
    }

    async fn run_effects(&self, cx: &Arc<Context>) {
        let _handling = self.progress.enter_handler(cx);
        run_effects(cx).await;
    }

    /// Calls the handler, and translates its indices to those of the job.
    async fn handle(&self, ready: &Ready, connection: &mut DB::Connection) -> Handled {
        match self.supervise(ready, connection).await {
            Ok(handled) => Ok(ready.division.index(handled, ready.run.take)),
            Err(error) => Err(self.failure(ready, &error)),
        }
    }

    async fn supervise(
        &self,
        ready: &Ready,
        connection: &mut DB::Connection,
    ) -> Result<usize, BatchError> {
        let take = ready.division.take(ready.run.take);
        if take == 0 {
            return Ok(0);
        }
        if let Some(defect) = self.job.defect.clone() {
            return Err(BatchError::at(0, defect));
        }
        if self.retried(&ready.claim).is_some() {
            metrics::retry(&self.shared.log_name, &self.segment.key);
        }
        let settings = &self.segment.consumer.settings;
        let limits = Limits {
            deadline: after(settings.batch_time).into(),
            handler_timeout: settings.handler_timeout,
            batch_len: settings.batch_len(),
            stop: self.shared.stop.clone(),
        };
        let consumer = &*self.segment.consumer.registered.consumer;
        let events = &ready.division.to_handle;
        let _handling = self.progress.enter_handler(&ready.cx);
        supervise(consumer, &ready.cx, connection, events, take, limits).await
    }

    /// The failure at events that were given to the handler, with their indices in the job.
    fn failure(&self, ready: &Ready, error: &BatchError) -> HandlerFailure {
        let failure = HandlerFailure::of::<DB>(error);
        let index_of = |index| ready.division.index(index, ready.run.take);
        let first = index_of(failure.index);
        let last = failure
            .index
            .saturating_add(failure.suspects.saturating_sub(1));
        let last = index_of(last).min(self.job.take.saturating_sub(1));
        HandlerFailure {
            index: first,
            suspects: last.saturating_sub(first) + 1,
            ..failure
        }
    }
}

/// The outcome of a failure.
fn failed(ready: &Ready, failure: HandlerFailure) -> Outcome {
    Outcome::Failed {
        claim: ready.claim.clone(),
        failure,
    }
}

/// Saving the checkpoint.
impl<DB: Backend> Attempt<'_, DB> {
    async fn save_and_commit(
        &self,
        mut tx: Transaction<'_, DB>,
        ready: &Ready,
        index: usize,
        ended_well: &mut bool,
    ) -> Result<Outcome, AttemptError> {
        let shared = self.shared;
        match shared
            .answer(self.save(&mut tx, ready, &ready.claim, index))
            .await
        {
            Ok(true) => match shared.answer(tx.commit()).await {
                Ok(()) => {
                    *ended_well = true;
                    Ok(self.saved(ready, &ready.claim, index))
                }
                Err(error) if is_refusal_of_commit::<DB>(&error) => {
                    // Dropping the transaction has rolled it back, or queued that, where the refusal
                    // did not.
                    *ended_well = DB::RESTORES_SESSION;
                    Ok(failed_somewhere(ready, refused_commit(&error)))
                }
                // A deferred trigger may have taken the rest of the time.
                Err(error) => self.failed_by_server(ready, error),
            },
            Ok(false) => Ok(failed(ready, HandlerFailure::ended_unseen())),
            Err(error) if is_of_session::<DB>(&error) => {
                let outcome = failed_somewhere(ready, unusable_session(&error));
                let outcome = shared.answer(undo(tx, ended_well, outcome)).await?;
                // Unless the worker's own role has lost a privilege meanwhile.
                shared.store.check_access(Access::Work).await?;
                Ok(outcome)
            }
            Err(error) if is_aborted_transaction::<DB>(&error) => {
                let outcome = failed_somewhere(ready, SWALLOWED.to_owned());
                shared.answer(roll_back(tx, ended_well, outcome)).await
            }
            // The server has closed the connection, so there is nothing to roll back.
            Err(error) => self.failed_by_server(ready, error),
        }
    }

    /// The outcome if the server has ended a transaction that was idle, or took, too long; any other error
    /// does not count.
    fn failed_by_server(&self, ready: &Ready, error: sqlx::Error) -> Result<Outcome, AttemptError> {
        match server_timeout::<DB>(&error, self.shared.options.claim_timeout) {
            Some(error) => Ok(failed_somewhere(ready, error)),
            None => Err(error.into()),
        }
    }

    /// Saves the checkpoint up to an index in the job under a claim, and parks the events that have to
    /// wait.
    async fn save(
        &self,
        tx: &mut Transaction<'_, DB>,
        ready: &Ready,
        claim: &Claim,
        index: usize,
    ) -> Result<bool, sqlx::Error> {
        let (statements, key) = (&self.shared.statements, &self.segment.key);
        let next_failure = self.job.next_failure.clone();
        let new = NewCheckpoint {
            position: self.position_after(ready, claim, index),
            state: State::Running,
            failure: next_failure.filter(|_| index == self.job.take),
        };
        let is_saved = self.segment.save(self.shared, tx, claim, &new);
        let is_saved = is_saved.await?;
        let to_park = ready.division.to_park(index, ready.run.is_replay);
        // Where the handler has ended the transaction, each statement would be committed by itself.
        if is_saved && !to_park.is_empty() {
            DB::park(statements, tx, key, &to_park).await?;
        }
        Ok(is_saved)
    }

    /// The checkpoint that is saved under a claim. Where the handler worked without one, another process
    /// may have passed over positions before the job.
    fn position_after(&self, ready: &Ready, claim: &Claim, index: usize) -> i64 {
        let position = self.checkpoint_after(&ready.claim, index);
        position.max(claim.checkpoint.position)
    }

    fn saved(&self, ready: &Ready, claim: &Claim, index: usize) -> Outcome {
        Outcome::Saved {
            position: self.position_after(ready, claim, index),
            tally: ready.division.tally(index),
        }
    }

    /// Saves what a handler has done outside. As long as the database fails, only the save is tried again,
    /// since the handler would repeat its effects; the mark keeps the row for it.
    async fn save_handled(&self, ready: &Ready, mark: &HeldMark<'_, DB>, index: usize) -> Outcome {
        let mut errors = 0;
        let outcome = loop {
            let error = match self.save_later(ready, mark, index).await {
                Ok(outcome) => break outcome,
                Err(AttemptError::Database(error)) => error,
                Err(AttemptError::StaleConnection) => continue,
            };
            errors += 1;
            let pause = delay(DATABASE_BACKOFF, errors);
            tracing::warn!(
                consumer = self.segment.name(), %error, errors,
                "the checkpoint of handled events could not be saved; trying again in {pause:?}"
            );
            self.progress.set_state(ConsumerState::Waiting { error });
            time::sleep(pause).await;
        };
        let handled = self.checkpoint_after(&ready.claim, index);
        let is_saved = matches!(&outcome, Outcome::Saved { position, .. } if *position >= handled);
        if !is_saved && index > 0 {
            let position = ready.claim.checkpoint.position;
            tracing::warn!(
                consumer = self.segment.name(),
                position,
                "events after position {position} were handled, but another process changed the checkpoint meanwhile, so that they may be handled twice"
            );
        }
        outcome
    }

    /// Saves like [`save`](Self::save) in a transaction of its own. If events that were to wait behind a parked
    /// one find it gone, because the mark had lapsed, they are handled with the next batch, together with
    /// those after them.
    async fn save_later(
        &self,
        ready: &Ready,
        mark: &HeldMark<'_, DB>,
        index: usize,
    ) -> Result<Outcome, AttemptError> {
        let mut lease = self.shared.connections.writer().await?;
        let Parts {
            connection,
            guard,
            ended_well,
            ..
        } = lease.begin()?;
        let mut tx = connection.begin_with(guard.begin()).await?;
        let again = claim_again(
            self.shared,
            self.segment,
            &ready.claim,
            self.job.after,
            &mut tx,
        );
        let claim = match again.await? {
            Ok(claim) => claim,
            Err(outcome) => return roll_back(tx, ended_well, outcome).await,
        };
        if !ready.run.is_replay && self.is_handled_meanwhile(&mut tx, &claim, index).await? {
            return roll_back(tx, ended_well, Outcome::Moved(claim)).await;
        }
        mark.release(&mut tx).await?;
        let (statements, segment) = (&self.shared.statements, self.segment);
        let row = (&segment.key, segment.slice_to);
        let freed = ready
            .division
            .first_freed::<DB>(statements, &mut tx, row, index);
        let index = freed.await?;
        if !self.save(&mut tx, ready, &claim, index).await? {
            return Err(AttemptError::not_saved(self.segment.name()));
        }
        commit(tx, ended_well, self.saved(ready, &claim, index)).await
    }
}

impl<DB: Backend> Attempt<'_, DB> {
    /// Whether another version has handled some of the first events of the job, as new ones, since this
    /// one began: the mark was lost because the process was frozen. They are replays now.
    async fn is_handled_meanwhile(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        index: usize,
    ) -> Result<bool, sqlx::Error> {
        if claim.mark == Mark::Held {
            return Ok(false);
        }
        let ledger = self.ledger(tx, claim).await?;
        let events = self.job.events.get(..index).unwrap_or_default();
        Ok(events.iter().any(|event| ledger.has(event)))
    }
}

/// The outcome of a handler that failed without saying so: any of its events may be the cause.
fn failed_somewhere(ready: &Ready, error: String) -> Outcome {
    failed(ready, HandlerFailure::unreported(ready.run.take, error))
}

/// Saves a checkpoint after the transaction of its job is over, if the row has not changed since.
pub(crate) async fn record<DB: Backend>(
    shared: &Shared<DB>,
    segment: &Segment<DB>,
    earlier: &Claim,
    new: &NewCheckpoint,
) -> Result<Outcome, AttemptError> {
    let mut lease = shared.connections.writer().await?;
    let Parts {
        connection,
        guard,
        ended_well,
        ..
    } = lease.begin()?;
    let mut tx = connection.begin_with(guard.begin()).await?;
    let position = earlier.checkpoint.position;
    let claim = match claim_again(shared, segment, earlier, position, &mut tx).await? {
        Ok(claim) => claim,
        Err(outcome) => return roll_back(tx, ended_well, outcome).await,
    };
    if !segment.save(shared, &mut tx, &claim, new).await? {
        return Err(AttemptError::not_saved(segment.name()));
    }
    let saved = Outcome::Saved {
        position: new.position,
        tally: Tally::default(),
    };
    commit(tx, ended_well, saved).await
}

/// Claims a row a second time, if it has not changed since the first time, except that it may have
/// advanced up to a position.
async fn claim_again<DB: Backend>(
    shared: &Shared<DB>,
    segment: &Segment<DB>,
    earlier: &Claim,
    up_to: i64,
    tx: &mut Transaction<'_, DB>,
) -> Result<Result<Box<Claim>, Outcome>, sqlx::Error> {
    let claim = match segment.claim(shared, tx).await? {
        Ok(claim) => claim,
        Err(outcome) => return Ok(Err(outcome)),
    };
    let (row, before) = (&claim.checkpoint, &earlier.checkpoint);
    if row.state != State::Running {
        return Ok(Err(Outcome::Blocked(claim)));
    }
    let is_unchanged = (before.position..=up_to.max(before.position)).contains(&row.position)
        && row.epoch == before.epoch
        && row.slice_to == before.slice_to
        && row.scope == before.scope
        && row.attempts == before.attempts
        && claim.incarnation == earlier.incarnation;
    Ok(if is_unchanged {
        Ok(claim)
    } else {
        Err(Outcome::Moved(claim))
    })
}

/// Talks to the server now and then while a handler works elsewhere, so that its claim does not
/// count as that of a frozen process. If the server does not answer, the claim is lost and the
/// handler is dropped.
pub(crate) async fn keep_alive<DB: Backend, T>(
    tx: &mut Transaction<'_, DB>,
    claim_timeout: Duration,
    handler: impl Future<Output = T>,
) -> Result<T, sqlx::Error> {
    let touching = async {
        loop {
            time::sleep(claim_timeout / 3).await;
            let touched = Timeouts::of_claims(claim_timeout)
                .answer(DB::touch(tx))
                .await;
            if let Err(error) = touched {
                return error;
            }
        }
    };
    tokio::select! {
        biased;
        output = handler => Ok(output),
        error = touching => Err(error),
    }
}

async fn look_at<DB: Backend>(
    tx: &mut Transaction<'_, DB>,
    claim: &Claim,
) -> Result<Remains, sqlx::Error> {
    Ok(DB::remains(tx, claim).await)
}

/// Fails if the connection is broken; an error of the server is an answer too.
async fn must_answer<DB: Backend>(tx: &mut Transaction<'_, DB>) -> Result<(), sqlx::Error> {
    match DB::touch(tx).await {
        Err(error) if error.as_database_error().is_none() => Err(error),
        _ => Ok(()),
    }
}

/// How long an effect after a commit may take: its lane handles nothing meanwhile.
const EFFECT_TIMEOUT: Duration = Duration::from_mins(1);

/// Runs what a handler registered to run after the commit.
pub(crate) async fn run_effects(cx: &Context) {
    run_effects_within(cx, EFFECT_TIMEOUT).await;
}

async fn run_effects_within(cx: &Context, limit: Duration) {
    let consumer = cx.consumer();
    for effect in cx.take_effects() {
        let effect = AssertUnwindSafe(effect).catch_unwind();
        match time::timeout(limit, effect).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!(consumer, "an effect after a commit panicked"),
            Err(_) => tracing::error!(
                consumer,
                "an effect after a commit was dropped, since it took longer than {limit:?}; spawn a task for work that takes long"
            ),
        }
    }
}

async fn commit<DB: Backend>(
    tx: Transaction<'_, DB>,
    ended_well: &mut bool,
    outcome: Outcome,
) -> Result<Outcome, AttemptError> {
    tx.commit().await?;
    *ended_well = true;
    Ok(outcome)
}

/// Rolls back what a handler has done. Where only a claim shows what else it did to the connection, that
/// is closed: the failure is recorded over another one.
async fn undo<DB: Backend>(
    tx: Transaction<'_, DB>,
    ended_well: &mut bool,
    outcome: Outcome,
) -> Result<Outcome, AttemptError> {
    tx.rollback().await?;
    *ended_well = DB::RESTORES_SESSION;
    Ok(outcome)
}

async fn roll_back<DB: Backend>(
    tx: Transaction<'_, DB>,
    ended_well: &mut bool,
    outcome: Outcome,
) -> Result<Outcome, AttemptError> {
    tx.rollback().await?;
    *ended_well = true;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn an_effect_that_never_ends_does_not_keep_the_next_one() {
        let cx = Context::new("mails");
        let has_run = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&has_run);
        cx.after_commit(std::future::pending());
        cx.after_commit(async move { flag.store(true, Ordering::Relaxed) });
        run_effects_within(&cx, Duration::from_millis(1)).await;
        assert!(has_run.load(Ordering::Relaxed));
    }
}
