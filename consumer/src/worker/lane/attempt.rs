//! One batch, one transaction: claim, handle, save, commit (R3, R4).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use sqlx::{Connection as _, Transaction};
use tokio::time;

use crate::backend::{
    Backend, Claim, Failure, NewCheckpoint, Parking, SegmentId, State, TransactionGuard as _,
};
use crate::contract::{BatchError, Context, OnError, PersistedEvent};
use crate::worker::connections::{Parts, Spare};
use crate::worker::context::Shared;
use crate::worker::lane::handler::{Fault, Limits, supervise};
use crate::worker::lane::outcome::{self, Blame};
use crate::worker::lane::parking::{Division, MOST_PARKED};
use crate::worker::log::batch::Batch;
use crate::worker::metrics;
use crate::worker::poller::assignment::AssignedConsumer;
use crate::worker::progress::Counts;
use crate::worker::timeouts::Timeouts;

/// Where a lane works: which consumer, and which of its rows.
pub(crate) struct Assignment<DB: Backend> {
    pub(crate) consumer: Arc<AssignedConsumer<DB>>,
    pub(crate) key: SegmentId,
    /// The slice after the row's last one, as the newest snapshot has it.
    pub(crate) slice_to: i32,
}

/// The first events of a batch, to be handled in one transaction.
pub(crate) struct Job {
    pub(crate) batch: Arc<Batch>,
    pub(crate) events: Arc<Vec<PersistedEvent>>,
    /// How many of the events, from the first on.
    pub(crate) take: usize,
    /// The checkpoint that the batch follows; nothing in scope lies between it and the batch.
    pub(crate) checkpoint: i64,
    /// The rebuild that the batch belongs to.
    pub(crate) epoch: i64,
    /// What to save about the event after those taken, when it has just failed.
    pub(crate) failed_next: Option<Failure>,
}

impl Job {
    /// The checkpoint once the first `handled` events are done.
    fn reaches(&self, handled: usize) -> i64 {
        if handled >= self.events.len() {
            return self.batch.up_to;
        }
        handled
            .checked_sub(1)
            .and_then(|last| self.events.get(last))
            .map_or(self.checkpoint, |event| event.global_position)
    }
}

/// What became of the events of a transaction that was committed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) handled: usize,
    pub(crate) parked: usize,
    pub(crate) skipped: usize,
}

impl Tally {
    pub(crate) fn counts(self) -> Counts {
        Counts {
            events: self.handled as u64,
            batches: u64::from(self.handled > 0),
            parked: self.parked as u64,
            skipped: self.skipped as u64,
        }
    }
}

/// How a transaction ended, when nothing went wrong with the database.
#[derive(Debug)]
pub(crate) enum Done {
    /// The first events are handled and the checkpoint stands behind them.
    Saved {
        claim: Box<Claim>,
        position: i64,
        tally: Tally,
    },
    /// A handler failed; nothing was saved.
    Failed {
        claim: Box<Claim>,
        handled: usize,
        suspects: usize,
        error: String,
    },
    /// The consumer was stopped at this event.
    Stopped { error: String },
    /// Another process has the row.
    Busy,
    /// The checkpoint is not where the batch starts.
    Elsewhere(Box<Claim>),
    /// The row forbids to run.
    Barred(Box<Claim>),
    /// The next attempt is due later.
    Wait(Duration),
    /// The row was divided, or is one with its neighbour now; the next snapshot tells.
    Resized,
    /// The row waits for its neighbour.
    Held,
}

/// Why a transaction could not be tried at all, or whose end nobody can vouch for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The database; it is tried again.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// A handler's error says the same.
    #[error("{0}")]
    Infrastructure(String),
    /// A handler ended the transaction (R4); it is not tried again.
    #[error("{error}")]
    Violation { claim: Box<Claim>, error: String },
}

impl Trouble {
    fn violation(claim: Box<Claim>, statement: &str) -> Self {
        let error = format!(
            "the handler ended the transaction of its worker with a {statement}, so nothing of the batch was saved; leave the end of the transaction to the worker, and use `tx.begin()` for a savepoint"
        );
        Self::Violation { claim, error }
    }
}

/// One try at a job.
pub(crate) struct Attempt<'a, DB: Backend> {
    pub(crate) shared: &'a Shared<DB>,
    pub(crate) assignment: &'a Assignment<DB>,
    pub(crate) job: &'a Job,
}

/// How a transaction begins.
enum Opening {
    /// The handler can be called.
    Ready(Ready),
    /// The event's policy was applied; the transaction is to be committed.
    Settled(Done),
    /// The job does not fit the row; nothing is to be saved.
    Refused(Done),
}

/// A claimed row, and what the handler is given on it.
struct Ready {
    claim: Box<Claim>,
    cx: Arc<Context>,
    take: usize,
    division: Division,
}

impl<DB: Backend> Attempt<'_, DB> {
    /// Runs the job to its commit, or to nothing.
    pub(crate) async fn transact(&self) -> Result<Done, Trouble> {
        if self
            .assignment
            .consumer
            .registered
            .consumer
            .uses_transaction()
            || DB::HOLDS_CLAIMS
        {
            self.under_claim().await
        } else {
            self.between_claims().await
        }
    }

    /// Claims, handles, saves and commits in one transaction.
    async fn under_claim(&self) -> Result<Done, Trouble> {
        let _lane = self.assignment.consumer.lanes.acquire().await;
        let (mut lease, mut spare) = if self
            .assignment
            .consumer
            .registered
            .consumer
            .uses_transaction()
        {
            (self.shared.connections.writer().await?, None)
        } else {
            // Before the claim, which must not wait for it.
            let spare = self.shared.connections.spare().await?;
            (self.shared.connections.holder().await?, Some(spare))
        };
        let Parts {
            connection,
            guard,
            ended_well,
            mut claimed,
        } = lease.begin()?;
        let begin = connection.begin_with(DB::BEGIN_BATCH);
        let mut tx = self.shared.answer(begin).await?;
        let ready = match self.shared.answer(self.open(&mut tx)).await? {
            Opening::Ready(ready) => ready,
            Opening::Settled(done) => {
                return self.shared.answer(commit(tx, ended_well, done)).await;
            }
            Opening::Refused(done) => {
                return self.shared.answer(roll_back(tx, ended_well, done)).await;
            }
        };
        claimed.by(ready.claim.backend);
        guard.allow_end(false);
        let outcome = self.handle(&ready, &mut tx, spare.as_mut()).await?;
        let mut violation = guard.violation();
        if violation.is_none()
            && matches!(outcome, Err(Fault::Failed(_)))
            && self.shared.answer(has_left(&mut tx, &ready.claim)).await?
        {
            violation = Some("COMMIT or ROLLBACK");
        }
        guard.allow_end(true);
        if let Err(Fault::Failed(error)) = &outcome
            && outcome::judge::<DB>(&error.error) == Blame::Protocol
        {
            self.shared.answer(must_answer(&mut tx)).await?;
        }
        let place = match self.judge(&ready, outcome, violation)? {
            Verdict::Handled(place) => place,
            Verdict::Failed(done) => {
                return self.shared.answer(roll_back(tx, ended_well, done)).await;
            }
            Verdict::GivenUp(done) => {
                // Dropping the future does not end the statement, which would keep the row locked.
                guard.give_up();
                self.shared.terminate(&[ready.claim.backend]).await;
                return Ok(done);
            }
        };
        match self.shared.answer(self.save(&mut tx, &ready, place)).await {
            Ok(true) => {}
            Ok(false) => return Err(Trouble::violation(ready.claim, "COMMIT or ROLLBACK")),
            Err(error) if outcome::is_aborted_transaction::<DB>(&error) => {
                return self
                    .shared
                    .answer(roll_back(tx, ended_well, swallowed(ready)))
                    .await;
            }
            Err(error) => return Err(error.into()),
        }
        let done = Done::Saved {
            position: self.reaches(&ready.claim, place),
            tally: ready.division.tally(place),
            claim: ready.claim,
        };
        let done = self.shared.answer(commit(tx, ended_well, done)).await?;
        drop(lease);
        run_effects(&ready.cx).await;
        Ok(done)
    }

    /// Runs a handler that does not use the transaction, where a claim held for long would keep
    /// every other writer out: the row is looked at before, and again when the checkpoint is saved.
    async fn between_claims(&self) -> Result<Done, Trouble> {
        let _lane = self.assignment.consumer.lanes.acquire().await;
        let ready = {
            let mut lease = self.shared.connections.writer().await?;
            let Parts {
                connection,
                ended_well,
                ..
            } = lease.begin()?;
            let mut tx = connection.begin_with(DB::BEGIN_BATCH).await?;
            match self.open(&mut tx).await? {
                Opening::Settled(done) => return commit(tx, ended_well, done).await,
                Opening::Refused(done) => return roll_back(tx, ended_well, done).await,
                Opening::Ready(ready) => {
                    tx.rollback().await?;
                    *ended_well = true;
                    ready
                }
            }
        };
        let mut spare = self.shared.connections.spare().await?;
        let outcome = self.supervise(&ready, &mut spare.connection).await;
        drop(spare);
        let place = match self.judge(&ready, outcome, None)? {
            Verdict::Handled(place) => place,
            Verdict::Failed(done) | Verdict::GivenUp(done) => return Ok(done),
        };
        let done = self.save_later(&ready, place).await?;
        if matches!(done, Done::Saved { .. }) {
            run_effects(&ready.cx).await;
        }
        Ok(done)
    }

    /// Claims the row, applies the policy to an event whose attempts are used up, and sees what is
    /// left for the handler.
    async fn open(&self, tx: &mut Transaction<'_, DB>) -> Result<Opening, sqlx::Error> {
        let timeout = self.shared.options.claim_timeout;
        let statements = &self.shared.statements;
        let Some(claim) = DB::claim(statements, tx, &self.assignment.key, timeout).await? else {
            return Ok(Opening::Refused(Done::Busy));
        };
        let claim = match self.admit(Box::new(claim)) {
            Ok(claim) => claim,
            Err(done) => return Ok(Opening::Refused(done)),
        };
        if let Some(event) = self.retried(&claim)
            && claim.checkpoint.attempts > self.assignment.consumer.settings.retries
        {
            return Ok(Opening::Settled(self.settle(tx, &claim, event).await?));
        }
        let take = self.take(&claim);
        let events = &self.job.events;
        let division =
            Division::of::<DB>(statements, tx, &self.assignment.key, &claim, events, take).await?;
        let cx = self.context(&claim);
        Ok(Opening::Ready(Ready {
            claim,
            cx,
            take,
            division,
        }))
    }

    /// Whether the job fits the claimed row.
    fn admit(&self, claim: Box<Claim>) -> Result<Box<Claim>, Done> {
        if claim.checkpoint.state != State::Running
            || claim.checkpoint.scope != *self.assignment.consumer.enrolment.scope
        {
            return Err(Done::Barred(claim));
        }
        let follows = self.job.checkpoint..=self.job.batch.after;
        if claim.checkpoint.slice_to != self.assignment.slice_to {
            return Err(Done::Resized);
        }
        if claim
            .checkpoint
            .hold_at
            .is_some_and(|hold_at| claim.checkpoint.position >= hold_at)
        {
            return Err(Done::Held);
        }
        if claim.checkpoint.epoch != self.job.epoch
            || claim.incarnation != self.job.batch.incarnation
            || !follows.contains(&claim.checkpoint.position)
        {
            return Err(Done::Elsewhere(claim));
        }
        match claim.retry_in {
            // Other events need not wait for the one that failed.
            Some(wait) if self.retried(&claim).is_some() => Err(Done::Wait(wait)),
            _ => Ok(claim),
        }
    }

    /// The event that the row says has failed, when it is the first of the job and the row does
    /// not wait for its neighbour before that.
    fn retried(&self, claim: &Claim) -> Option<&PersistedEvent> {
        let within = |event: &&PersistedEvent| {
            claim
                .checkpoint
                .hold_at
                .is_none_or(|hold_at| event.global_position <= hold_at)
        };
        let first = self.job.events.first().filter(within)?;
        (claim.checkpoint.attempts > 0
            && claim.checkpoint.failed_position == Some(first.global_position))
        .then_some(first)
    }

    /// How many events to hand over: an event that failed before is tried alone, and a batch does
    /// not reach over the end of a replay.
    fn take(&self, claim: &Claim) -> usize {
        if self.retried(claim).is_some() {
            return self.job.take.min(1);
        }
        let up_to = |position| {
            self.job
                .events
                .partition_point(|event| event.global_position <= position)
        };
        let take = claim
            .checkpoint
            .hold_at
            .map_or(self.job.take, |hold_at| self.job.take.min(up_to(hold_at)));
        match up_to(claim.checkpoint.replay_to) {
            0 => take,
            replayed => take.min(replayed),
        }
    }

    /// The checkpoint once everything before a place in the job is handled.
    fn reaches(&self, claim: &Claim, place: usize) -> i64 {
        let Some(hold_at) = claim.checkpoint.hold_at else {
            return self.job.reaches(place).max(claim.checkpoint.position);
        };
        let next = self
            .job
            .events
            .get(place)
            .map(|event| event.global_position - 1);
        next.unwrap_or(self.job.batch.up_to).min(hold_at)
    }

    /// Applies the consumer's policy to an event whose attempts are used up.
    async fn settle(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        event: &PersistedEvent,
    ) -> Result<Done, sqlx::Error> {
        let (key, settings) = (&self.assignment.key, &self.assignment.consumer.settings);
        let error = claim.checkpoint.error.clone().unwrap_or_default();
        let position = event.global_position;
        let parks = settings.on_error == OnError::Park && self.may_park(tx).await?;
        if !parks && settings.on_error != OnError::Skip {
            return self.stop(tx, claim, position, error).await;
        }
        let attempts = claim.checkpoint.attempts;
        if parks {
            let failed = Parking {
                event,
                failure: Some((attempts, &error)),
            };
            DB::park(&self.shared.statements, tx, key, &[failed]).await?;
        }
        let what = if parks { "parked" } else { "skipped" };
        tracing::warn!(consumer = &*key.consumer.name, position, attempts, %error, "the event is {what}");
        let position = self.job.reaches(1);
        let progress = NewCheckpoint {
            position,
            state: State::Running,
            failure: None,
        };
        DB::save(&self.shared.statements, tx, key, claim, &progress).await?;
        Ok(Done::Saved {
            claim: Box::new(claim.clone()),
            position,
            tally: Tally {
                parked: usize::from(parks),
                skipped: usize::from(!parks),
                handled: 0,
            },
        })
    }

    async fn may_park(&self, tx: &mut Transaction<'_, DB>) -> Result<bool, sqlx::Error> {
        let (statements, key) = (&self.shared.statements, &self.assignment.key);
        Ok(DB::count_parked(statements, tx, key, MOST_PARKED).await? < MOST_PARKED)
    }

    async fn stop(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        position: i64,
        mut error: String,
    ) -> Result<Done, sqlx::Error> {
        if self.assignment.consumer.settings.on_error == OnError::Park {
            error = format!(
                "{MOST_PARKED} aggregates are parked already, so the next one stops the consumer: {error}"
            );
        }
        let failure = Failure {
            position,
            attempts: claim.checkpoint.attempts,
            retry_in: Duration::ZERO,
            error: error.clone(),
        };
        let progress = NewCheckpoint {
            position: claim.checkpoint.position,
            state: State::Stopped,
            failure: Some(failure),
        };
        DB::save(
            &self.shared.statements,
            tx,
            &self.assignment.key,
            claim,
            &progress,
        )
        .await?;
        Ok(Done::Stopped { error })
    }

    fn context(&self, claim: &Claim) -> Arc<Context> {
        let first = self
            .job
            .events
            .first()
            .map_or(i64::MAX, |event| event.global_position);
        let retries = self.retried(claim).map_or(0, |_| claim.checkpoint.attempts);
        Arc::new(
            Context::new(Arc::clone(&self.assignment.key.consumer.name))
                .with_version(self.assignment.consumer.registered.declaration.version)
                .with_attempt(retries.saturating_add(1))
                .with_replay(first <= claim.checkpoint.replay_to)
                .with_head(self.job.batch.head)
                .with_deadline(Instant::now() + self.assignment.consumer.settings.batch_time),
        )
    }

    /// Calls the handler while the claim is held.
    async fn handle(
        &self,
        ready: &Ready,
        tx: &mut Transaction<'_, DB>,
        spare: Option<&mut Spare<DB>>,
    ) -> Result<Result<usize, Fault>, sqlx::Error> {
        let Some(spare) = spare else {
            return Ok(self.supervise(ready, tx).await);
        };
        let handler = self.supervise(ready, &mut spare.connection);
        keep_alive::<DB, _>(tx, self.shared.options.claim_timeout, handler).await
    }

    async fn supervise(
        &self,
        ready: &Ready,
        connection: &mut DB::Connection,
    ) -> Result<usize, Fault> {
        let take = ready.division.take(ready.take);
        if take == 0 {
            return Ok(0);
        }
        if self.retried(&ready.claim).is_some() {
            metrics::retry(&self.assignment.key);
        }
        let limits = Limits {
            deadline: time::Instant::now() + self.assignment.consumer.settings.batch_time,
            handler_timeout: self.assignment.consumer.settings.handler_timeout,
            batch_len: self.assignment.consumer.settings.batch_len(),
            stop: self.shared.stop.clone(),
        };
        let consumer = &*self.assignment.consumer.registered.consumer;
        supervise(
            consumer,
            &ready.cx,
            connection,
            &ready.division.run,
            take,
            limits,
        )
        .await
    }

    /// Says what the end of a handler means.
    fn judge(
        &self,
        ready: &Ready,
        outcome: Result<usize, Fault>,
        violation: Option<&'static str>,
    ) -> Result<Verdict, Trouble> {
        let violation =
            violation.map(|statement| Trouble::violation(ready.claim.clone(), statement));
        let (error, given_up) = match outcome {
            Ok(handled) => {
                let place = ready.division.place(handled, ready.take);
                return violation.map_or(Ok(Verdict::Handled(place)), Err);
            }
            Err(Fault::Failed(error)) => (error, false),
            Err(Fault::TimedOut(error)) => (error, true),
        };
        match (outcome::judge::<DB>(&error.error), violation) {
            // A full or broken disk makes a database without a server roll back by itself. Nothing
            // was saved, and nobody uses the connection again.
            (Blame::Infrastructure, Some(_)) if !DB::HOLDS_CLAIMS => {
                Err(Trouble::Infrastructure(error.error.to_string()))
            }
            (_, Some(violation)) => Err(violation),
            (Blame::Infrastructure, None) => Err(Trouble::Infrastructure(error.error.to_string())),
            (Blame::Commit, None) => Err(Trouble::violation(ready.claim.clone(), "COMMIT")),
            (Blame::Handler | Blame::Protocol, None) => {
                let done = self.failed(ready, &error);
                Ok(if given_up {
                    Verdict::GivenUp(done)
                } else {
                    Verdict::Failed(done)
                })
            }
        }
    }

    fn failed(&self, ready: &Ready, error: &BatchError) -> Done {
        let (handled, suspects) = (error.handled, error.suspects);
        let first = ready.division.place(handled, ready.take);
        let last = handled.saturating_add(suspects.saturating_sub(1));
        let last = ready
            .division
            .place(last, ready.take)
            .min(self.job.take.saturating_sub(1));
        Done::Failed {
            claim: ready.claim.clone(),
            handled: first,
            suspects: last.saturating_sub(first) + 1,
            error: error.error.to_string(),
        }
    }

    /// Saves the checkpoint up to a place in the job, and with it the events that must wait.
    async fn save(
        &self,
        tx: &mut Transaction<'_, DB>,
        ready: &Ready,
        place: usize,
    ) -> Result<bool, sqlx::Error> {
        let waiting = ready.division.waiting(place);
        if !waiting.is_empty() {
            DB::park(&self.shared.statements, tx, &self.assignment.key, &waiting).await?;
        }
        let progress = NewCheckpoint {
            position: self.reaches(&ready.claim, place),
            state: State::Running,
            failure: self
                .job
                .failed_next
                .clone()
                .filter(|_| place == self.job.take),
        };
        DB::save(
            &self.shared.statements,
            tx,
            &self.assignment.key,
            &ready.claim,
            &progress,
        )
        .await
    }

    /// Saves like [`save`](Self::save) in a transaction of its own.
    async fn save_later(&self, ready: &Ready, place: usize) -> Result<Done, Trouble> {
        let mut lease = self.shared.connections.writer().await?;
        let Parts {
            connection,
            ended_well,
            ..
        } = lease.begin()?;
        let mut tx = connection.begin_with(DB::BEGIN_BATCH).await?;
        if let Err(done) = claim_again(self.shared, self.assignment, &ready.claim, &mut tx).await? {
            return roll_back(tx, ended_well, done).await;
        }
        if !self.save(&mut tx, ready, place).await? {
            return Err(sqlx::Error::RowNotFound.into());
        }
        let done = Done::Saved {
            claim: ready.claim.clone(),
            position: self.reaches(&ready.claim, place),
            tally: ready.division.tally(place),
        };
        commit(tx, ended_well, done).await
    }
}

/// What the end of a handler means.
enum Verdict {
    /// Everything before this place in the job is handled.
    Handled(usize),
    /// It failed, and the transaction can be rolled back.
    Failed(Done),
    /// It was given up in the middle of something.
    GivenUp(Done),
}

/// What to tell of a handler that ignored a failed statement.
pub(crate) const SWALLOWED: &str = "a statement in the handler failed and its error was not returned, so the transaction is void; return the error, or run the statement in a savepoint (`tx.begin()`)";

/// A statement failed in the transaction, and the handler said nothing.
fn swallowed(ready: Ready) -> Done {
    Done::Failed {
        handled: 0,
        suspects: ready.take,
        error: SWALLOWED.to_owned(),
        claim: ready.claim,
    }
}

/// Saves what became of a job whose transaction is over, if nobody else came in between.
pub(crate) async fn record<DB: Backend>(
    shared: &Shared<DB>,
    assignment: &Assignment<DB>,
    earlier: &Claim,
    progress: &NewCheckpoint,
) -> Result<Done, Trouble> {
    let mut lease = shared.connections.writer().await?;
    let Parts {
        connection,
        ended_well,
        ..
    } = lease.begin()?;
    let mut tx = connection.begin_with(DB::BEGIN_BATCH).await?;
    let claim = match claim_again(shared, assignment, earlier, &mut tx).await? {
        Ok(claim) => claim,
        Err(done) => return roll_back(tx, ended_well, done).await,
    };
    if !DB::save(
        &shared.statements,
        &mut tx,
        &assignment.key,
        &claim,
        progress,
    )
    .await?
    {
        return Err(sqlx::Error::RowNotFound.into());
    }
    let done = Done::Saved {
        claim,
        position: progress.position,
        tally: Tally::default(),
    };
    commit(tx, ended_well, done).await
}

/// Claims a row a second time, as it was the first time.
async fn claim_again<DB: Backend>(
    shared: &Shared<DB>,
    assignment: &Assignment<DB>,
    earlier: &Claim,
    tx: &mut Transaction<'_, DB>,
) -> Result<Result<Box<Claim>, Done>, sqlx::Error> {
    let timeout = shared.options.claim_timeout;
    let Some(claim) = DB::claim(&shared.statements, tx, &assignment.key, timeout).await? else {
        return Ok(Err(Done::Busy));
    };
    let claim = Box::new(claim);
    if claim.checkpoint.state != State::Running {
        return Ok(Err(Done::Barred(claim)));
    }
    let unchanged = claim.checkpoint.position == earlier.checkpoint.position
        && claim.checkpoint.epoch == earlier.checkpoint.epoch
        && claim.checkpoint.slice_to == earlier.checkpoint.slice_to
        && claim.checkpoint.scope == earlier.checkpoint.scope
        && claim.incarnation == earlier.incarnation
        && claim.checkpoint.attempts == earlier.checkpoint.attempts;
    Ok(if unchanged {
        Ok(claim)
    } else {
        Err(Done::Elsewhere(claim))
    })
}

/// Sends a word to the server now and then, so that a claim whose handler works elsewhere is not
/// taken for that of a frozen process. The handler goes on meanwhile; without an answer it is given
/// up, since the claim is lost.
pub(crate) async fn keep_alive<DB: Backend, T>(
    tx: &mut Transaction<'_, DB>,
    claim_timeout: Duration,
    handler: impl Future<Output = T>,
) -> Result<T, sqlx::Error> {
    let signs_of_life = async {
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
        outcome = handler => Ok(outcome),
        error = signs_of_life => Err(error),
    }
}

async fn has_left<DB: Backend>(
    tx: &mut Transaction<'_, DB>,
    claim: &Claim,
) -> Result<bool, sqlx::Error> {
    Ok(DB::has_left(tx, claim).await)
}

/// Fails when the connection is broken; a refusal is an answer too.
async fn must_answer<DB: Backend>(tx: &mut Transaction<'_, DB>) -> Result<(), sqlx::Error> {
    match DB::touch(tx).await {
        Err(error) if error.as_database_error().is_none() => Err(error),
        _ => Ok(()),
    }
}

/// Runs what a handler wanted to happen after the commit.
pub(crate) async fn run_effects(cx: &Context) {
    for effect in cx.take_effects() {
        if AssertUnwindSafe(effect).catch_unwind().await.is_err() {
            tracing::error!(
                consumer = cx.consumer(),
                "an effect after a commit panicked"
            );
        }
    }
}

async fn commit<DB: Backend>(
    tx: Transaction<'_, DB>,
    ended_well: &mut bool,
    done: Done,
) -> Result<Done, Trouble> {
    tx.commit().await?;
    *ended_well = true;
    Ok(done)
}

async fn roll_back<DB: Backend>(
    tx: Transaction<'_, DB>,
    ended_well: &mut bool,
    done: Done,
) -> Result<Done, Trouble> {
    tx.rollback().await?;
    *ended_well = true;
    Ok(done)
}
