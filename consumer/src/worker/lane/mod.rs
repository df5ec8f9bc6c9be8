//! A lane: one consumer, or one segment of it, working through its events batch by batch.

pub(crate) mod attempt;
pub(crate) mod handler;
pub(crate) mod outcome;
pub(crate) mod parking;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time;
use tracing::Instrument as _;

use crate::backend::{
    Backend, Checkpoint, Claim, Failure, Incarnation, NewCheckpoint, SegmentId, State,
};
use crate::backend::{SLICES, StoreError};
use crate::contract::{Backoff, PersistedEvent};
use crate::worker::context::Shared;
use crate::worker::lane::attempt::{Assignment, Attempt, Done, Job, Tally, Trouble, record};
use crate::worker::log::batch::{Batch, BatchReader, Filter};
use crate::worker::metrics;
use crate::worker::poller::assignment::NewLane;
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::{Cell, First, Place};

/// The next batch, being read while the one before it is handled.
///
/// A task, and not a future of the lane: a lane that waits for its retry does not poll, and a
/// reader that nobody polls would keep the log from all others. One that is no longer wanted goes
/// on to its end, and what it read is there for whoever comes next.
struct Ahead {
    after: i64,
    read: JoinHandle<(BatchReader, Result<Batch, StoreError>)>,
}

/// What a lane does with a batch whose events it has not all handled.
struct Work {
    batch: Arc<Batch>,
    job: Job,
}

/// One consumer, or one segment of it, at work.
pub(crate) struct Lane<DB: Backend> {
    shared: Arc<Shared<DB>>,
    /// Where it reads.
    reads_on: Handle,
    assignment: Assignment<DB>,
    cell: Arc<Cell>,
    /// The lane ends when it has reached this position.
    until: Option<i64>,
    place: Option<Place>,
    feed: Option<BatchReader>,
    ahead: Option<Ahead>,
    work: Option<Work>,
    /// A batch-wise handler failed somewhere up to this position: batches stay this small until
    /// it is passed.
    suspected: Option<(i64, usize)>,
    /// The snapshot that its row is first in: one before that does not show that the row is gone.
    opened_in: u64,
    /// The snapshot that it has looked at.
    looked_at: u64,
    /// The snapshot in which the row forbade to run.
    barred_at: Option<u64>,
    troubles: u32,
}

enum Turn {
    Go,
    End(ConsumerState),
}

impl<DB: Backend> Lane<DB> {
    pub(crate) fn new(
        shared: Arc<Shared<DB>>,
        reads_on: Handle,
        new_lane: NewLane<DB>,
        until: Option<i64>,
    ) -> Self {
        let NewLane {
            snapshot,
            consumer,
            cell,
        } = new_lane;
        let key = cell.key.clone();
        Self {
            shared,
            reads_on,
            assignment: Assignment {
                consumer,
                key,
                slice_to: 0,
            },
            cell,
            until,
            place: None,
            feed: None,
            ahead: None,
            work: None,
            suspected: None,
            opened_in: snapshot,
            looked_at: 0,
            barred_at: None,
            troubles: 0,
        }
    }

    /// Works until the worker stops, or until everything there was to handle is handled.
    pub(crate) async fn run(mut self) {
        loop {
            let turn = if self.shared.is_stopping() {
                Turn::End(ConsumerState::ShutDown)
            } else {
                self.turn().await
            };
            if let Turn::End(state) = turn {
                // Why a consumer did not run says more than that the worker ended meanwhile.
                let stays = matches!(
                    self.cell.state(),
                    ConsumerState::Stopped { .. }
                        | ConsumerState::Paused
                        | ConsumerState::ScopeChanged { .. }
                        | ConsumerState::Forgotten
                );
                if !stays || state != ConsumerState::ShutDown {
                    self.cell.set_state(state);
                }
                return;
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        if let Some(barrier) = self.look_at_row() {
            return self.wait_behind(barrier).await;
        }
        let Some(place) = self.place else {
            self.wait_for_news().await;
            return Turn::Go;
        };
        if self.work.is_none() {
            match self.next_batch(place).await {
                Ok(Some(batch)) if batch.events.is_empty() => return self.pass_over(&batch).await,
                Ok(Some(batch)) => self.take_up(place, batch),
                Ok(None) => return Turn::Go,
                Err(error) => return self.recover(error.to_string()).await,
            }
        }
        let Some(mut work) = self.work.take() else {
            return Turn::Go;
        };
        match self.run_job(&mut work).await {
            Ok(done) => self.conclude(work, done).await,
            Err(Trouble::Violation { claim, error }) => {
                self.stop_at_once(work, &claim, error).await
            }
            Err(trouble) => {
                self.work = Some(work);
                self.recover(trouble.to_string()).await
            }
        }
    }

    /// Compares with the newest snapshot: what operators and other processes did to the row.
    fn look_at_row(&mut self) -> Option<ConsumerState> {
        let snapshot = Arc::clone(&self.shared.snapshot.borrow());
        let incarnation = self.shared.frontier.borrow().incarnation;
        self.looked_at = snapshot.number;
        if snapshot.number < self.opened_in || snapshot.incarnation != incarnation {
            return None;
        }
        let Some(row) = snapshot.rows.get(&self.assignment.key) else {
            return Some(ConsumerState::Forgotten);
        };
        if self
            .barred_at
            .is_some_and(|number| snapshot.number <= number)
        {
            return Some(self.cell.state());
        }
        if let Some(barrier) = barrier(
            &self.assignment.consumer.enrolment.scope,
            row.state,
            &row.scope,
            row,
        ) {
            return Some(barrier);
        }
        self.barred_at = None;
        let resized = row.slice_to != self.assignment.slice_to;
        let stale = resized
            || self.place.is_none_or(|place| {
                place.incarnation != incarnation
                    || place.epoch < row.epoch
                    || place.after < row.position
            });
        if resized {
            self.assignment.slice_to = row.slice_to;
            self.feed = None;
        }
        if stale {
            self.move_to(incarnation, row.epoch, row.position);
        }
        None
    }

    fn move_to(&mut self, incarnation: Incarnation, epoch: i64, checkpoint: i64) {
        self.work = None;
        self.ahead = None;
        self.suspected = None;
        self.set_place(Some(Place {
            incarnation,
            slice_to: self.assignment.slice_to,
            epoch,
            checkpoint,
            after: checkpoint,
        }));
        self.cell.set_state(ConsumerState::Running);
    }

    fn set_place(&mut self, place: Option<Place>) {
        self.place = place;
        self.cell.set_place(place);
    }

    async fn wait_behind(&mut self, barrier: ConsumerState) -> Turn {
        if barrier == ConsumerState::Forgotten && self.is_merged() {
            return Turn::End(barrier);
        }
        self.work = None;
        self.ahead = None;
        if self.cell.state() != barrier {
            tracing::warn!(consumer = &*self.assignment.key.consumer.name, state = ?barrier, "the consumer does not run");
        }
        self.cell.set_state(barrier.clone());
        if self.until.is_some() {
            return Turn::End(barrier);
        }
        self.wait_for_news().await;
        Turn::Go
    }

    /// Whether the row is gone because a neighbour has taken it over.
    fn is_merged(&self) -> bool {
        let snapshot = self.shared.snapshot.borrow();
        let key = &self.assignment.key;
        snapshot.rows.keys().any(|row| row.consumer == key.consumer)
    }

    /// Waits for a snapshot that the lane has not looked at, or the end of the worker.
    async fn wait_for_news(&mut self) {
        let mut snapshot = self.shared.snapshot.clone();
        let number = self.looked_at;
        tokio::select! {
            _ = snapshot.wait_for(|snapshot| snapshot.number > number) => {}
            () = self.shared.stopped() => {}
        }
    }

    /// The next batch after the place, which may be empty; `None` when the worker stops.
    async fn next_batch(&mut self, place: Place) -> Result<Option<Batch>, StoreError> {
        // What was read to follow a batch that came to nothing would leave out that batch.
        let ahead = self.ahead.take().filter(|ahead| ahead.after == place.after);
        let read = match ahead {
            Some(ahead) => ahead.read,
            None => self.read(place.after),
        };
        let shared = Arc::clone(&self.shared);
        let (feed, batch) = tokio::select! {
            // A task that panicked has lost its feed, and the lane makes a new one.
            read = read => read.map_err(|_| sqlx::Error::WorkerCrashed)?,
            () = shared.stopped() => return Ok(None),
        };
        self.feed = Some(feed);
        let batch = batch?;
        if batch.incarnation != place.incarnation {
            // A restart of the server came in between; the next snapshot tells where the row is.
            self.set_place(None);
            return Ok(None);
        }
        Ok(Some(batch))
    }

    /// Starts to read the batch after a position.
    fn read(&mut self, after: i64) -> JoinHandle<(BatchReader, Result<Batch, StoreError>)> {
        let shared = Arc::clone(&self.shared);
        let mut feed = self
            .feed
            .take()
            .unwrap_or_else(|| BatchReader::new(self.filter()));
        let limit = self.limit(after);
        self.reads_on.spawn(async move {
            let frontier = shared.frontier.borrow().clone();
            let bytes = shared.batch_bytes();
            let batch = feed
                .collect(&shared.log, &frontier, after, limit, bytes)
                .await;
            (feed, batch)
        })
    }

    fn filter(&self) -> Filter {
        let slice = |slice: i32| u16::try_from(slice).unwrap_or(SLICES);
        Filter {
            scope: Arc::clone(&self.assignment.consumer.scope),
            slices: slice(self.assignment.key.slice_from)..slice(self.assignment.slice_to),
        }
    }

    fn limit(&self, after: i64) -> usize {
        match self.suspected {
            Some((up_to, size)) if after < up_to => size,
            _ => self
                .assignment
                .consumer
                .settings
                .batch_len()
                .saturating_mul(self.batches()),
        }
    }

    /// How many batches the next transaction is to hold: more than one while lanes wait for
    /// connections, which none of them gets sooner by committing more often.
    fn batches(&self) -> usize {
        if self.assignment.consumer.settings.may_grow && self.shared.connections.is_crowded() {
            DB::MOST_BATCHES
        } else {
            1
        }
    }

    /// Nothing in scope up to the end of the batch: nothing is written (see `advance`).
    async fn pass_over(&mut self, batch: &Batch) -> Turn {
        if let Some(place) = self.place {
            self.set_place(Some(Place {
                after: place.after.max(batch.up_to),
                ..place
            }));
            self.cell.set_state(ConsumerState::Running);
        }
        if self.until.is_some_and(|until| batch.up_to >= until) {
            return Turn::End(ConsumerState::CaughtUp);
        }
        self.wait_for_events(batch).await;
        // Meanwhile it may have been moved along.
        self.place = self.cell.place();
        Turn::Go
    }

    /// Waits for events after the batch: a lane without a scope for any, one with a scope for those
    /// that may be in it. A change of its row also ends the wait.
    async fn wait_for_events(&mut self, batch: &Batch) {
        let scope = &self.filter().scope;
        // A run that ends at a position has to see that it is reached.
        let may_sleep = !scope.is_empty() && self.until.is_none();
        let sleep = may_sleep
            .then(|| {
                self.shared
                    .rest
                    .sleep(&self.cell, scope, batch.up_to, batch.incarnation)
            })
            .flatten();
        let mut frontier = self.shared.frontier.clone();
        let events = async {
            match &sleep {
                Some(sleep) => sleep.woken().await,
                None => {
                    let _ = frontier
                        .wait_for(|seen| {
                            seen.settled > batch.up_to || seen.incarnation != batch.incarnation
                        })
                        .await;
                }
            }
        };
        let key = &self.assignment.key;
        let mut snapshot = self.shared.snapshot.clone();
        let (number, row) = {
            let snapshot = snapshot.borrow();
            (snapshot.number, snapshot.rows.get(key).cloned())
        };
        if number != self.looked_at {
            return;
        }
        let row_changed = snapshot.wait_for(|snapshot| snapshot.rows.get(key) != row.as_ref());
        tokio::select! {
            () = events => {}
            _ = row_changed => {}
            () = self.shared.stopped() => {}
        }
    }

    fn take_up(&mut self, place: Place, mut batch: Batch) {
        let events = Arc::new(std::mem::take(&mut batch.events));
        let batch = Arc::new(batch);
        self.note_first(place.after, &events);
        let job = Job {
            take: events.len(),
            batch: Arc::clone(&batch),
            events,
            checkpoint: place.checkpoint,
            epoch: place.epoch,
            failed_next: None,
        };
        self.work = Some(Work { batch, job });
    }

    /// Notes since when the events at hand wait.
    fn note_first(&self, after: i64, events: &[PersistedEvent]) {
        self.cell.note_first(First {
            after,
            up_to: after,
            created_at: events.first().map(|event| event.created_at),
        });
    }

    /// Runs the job while the next batch is read.
    async fn run_job(&mut self, work: &mut Work) -> Result<Done, Trouble> {
        let whole = work.job.take == work.job.events.len();
        let after = work.batch.up_to;
        if whole && self.ahead.is_none() && self.shared.frontier.borrow().settled > after {
            let read = self.read(after);
            self.ahead = Some(Ahead { after, read });
        }
        let shared = Arc::clone(&self.shared);
        let attempt = Attempt {
            shared: &shared,
            assignment: &self.assignment,
            job: &work.job,
        };
        let span = self.span(work);
        let transaction = attempt.transact().instrument(span.clone());
        ended(&self.assignment.key, span, transaction).await
    }

    fn span(&self, work: &Work) -> tracing::Span {
        let attempt = match self.cell.state() {
            ConsumerState::Retrying { attempts, .. } => attempts.saturating_add(1),
            _ => 1,
        };
        tracing::info_span!(
            "consumer.batch",
            consumer = &*self.assignment.key.consumer.name,
            version = self.assignment.key.consumer.version,
            from = work.job.checkpoint,
            events = work.job.take,
            attempt,
            to = tracing::field::Empty,
            duration_ms = tracing::field::Empty,
        )
    }

    async fn conclude(&mut self, work: Work, done: Done) -> Turn {
        self.troubles = 0;
        match done {
            Done::Saved {
                claim,
                position,
                tally,
            } => self.advance(work, &claim, position, tally),
            Done::Failed {
                claim,
                handled,
                suspects,
                error,
            } => {
                return self
                    .narrow_down(work, claim, handled, suspects, error)
                    .await;
            }
            Done::Stopped { error } => {
                let position = work.job.events.first().map(|event| event.global_position);
                return self.stopped(position, error);
            }
            Done::Busy => {
                self.work = Some(work);
                // Whoever has the row works on it; its checkpoint shows in the next snapshot.
                let pause = self.shared.options.poll_interval;
                self.cell.rests_until(Instant::now());
                self.rest(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            }
            Done::Elsewhere(claim) => {
                self.move_to(
                    claim.incarnation,
                    claim.checkpoint.epoch,
                    claim.checkpoint.position,
                );
            }
            Done::Barred(claim) => self.bar(&claim),
            Done::Resized => {
                self.shared.want_snapshot();
                self.wait_for_news().await;
            }
            Done::Held => self.wait_for_news().await,
            Done::Wait(wait) => {
                self.work = Some(work);
                self.cell.rests_until(Instant::now() + wait);
                self.rest(wait).await;
            }
        }
        Turn::Go
    }

    fn advance(&mut self, mut work: Work, claim: &Claim, position: i64, tally: Tally) {
        let passed = work
            .job
            .events
            .partition_point(|event| event.global_position <= position);
        self.cell.count(tally.counts());
        // Last: whoever waits for the position finds the batch counted.
        if let Some(place) = self.place {
            self.set_place(Some(Place {
                checkpoint: position,
                after: position,
                ..place
            }));
        }
        self.cell.set_state(ConsumerState::Running);
        tracing::debug!(
            consumer = &*self.assignment.key.consumer.name,
            from = claim.checkpoint.position,
            to = position,
            events = tally.handled,
            parked = tally.parked,
            skipped = tally.skipped,
            "batch saved"
        );
        if passed < work.job.events.len() {
            let rest = work.job.events.get(passed..).unwrap_or_default().to_vec();
            self.note_first(position, &rest);
            work.job.take = rest.len().min(self.limit(position));
            work.job.events = Arc::new(rest);
            work.job.checkpoint = position;
            work.job.failed_next = None;
            let batch = Batch {
                after: position,
                ..(*work.batch).clone()
            };
            work.batch = Arc::new(batch);
            work.job.batch = Arc::clone(&work.batch);
            self.work = Some(work);
        }
    }

    /// Makes the part of the batch that holds the failing event smaller, down to that event.
    async fn narrow_down(
        &mut self,
        mut work: Work,
        claim: Box<Claim>,
        handled: usize,
        suspects: usize,
        error: String,
    ) -> Turn {
        let failed = work
            .job
            .events
            .get(handled)
            .map(|event| event.global_position);
        if handled > 0 {
            // The events before it are handled again and saved, together with the failure.
            work.job.take = handled;
            work.job.failed_next = failed
                .filter(|_| suspects == 1)
                .map(|position| self.failure(position, 1, error));
            self.work = Some(work);
            return Turn::Go;
        }
        if suspects > 1 {
            let half = (suspects.min(work.job.take) / 2).max(1);
            let last = work
                .job
                .events
                .get(suspects.saturating_sub(1))
                .or(work.job.events.last());
            self.suspected = last.map(|event| (event.global_position, half));
            work.job.take = half;
            self.work = Some(work);
            return Turn::Go;
        }
        let Some(position) = failed else {
            return Turn::Go;
        };
        let before = if claim.checkpoint.failed_position == Some(position) {
            claim.checkpoint.attempts
        } else {
            0
        };
        let failure = self.failure(position, before.saturating_add(1), error);
        let progress = NewCheckpoint {
            position: claim.checkpoint.position,
            state: State::Running,
            failure: Some(failure.clone()),
        };
        match self.note(&claim, &progress).await {
            Ok(Done::Elsewhere(claim)) => self.move_to(
                claim.incarnation,
                claim.checkpoint.epoch,
                claim.checkpoint.position,
            ),
            Ok(Done::Barred(claim)) => self.bar(&claim),
            Ok(_) => {
                self.work = Some(work);
                self.cell.set_state(ConsumerState::Retrying {
                    position,
                    attempts: failure.attempts,
                    error: failure.error,
                });
                self.cell.rests_until(Instant::now() + failure.retry_in);
                self.rest(failure.retry_in).await;
            }
            Err(trouble) => {
                self.work = Some(work);
                return self.recover(trouble.to_string()).await;
            }
        }
        Turn::Go
    }

    /// Records what became of a job. The row may still be locked, by a backend that is just ending
    /// or by another process: a failure that is not written down would not count.
    async fn note(&mut self, claim: &Claim, progress: &NewCheckpoint) -> Result<Done, Trouble> {
        loop {
            let record = record(&self.shared, &self.assignment, claim, progress);
            let done = self.shared.answer(record).await?;
            if !matches!(done, Done::Busy) || self.shared.is_stopping() {
                return Ok(done);
            }
            self.rest(self.shared.options.poll_interval).await;
        }
    }

    fn failure(&self, position: i64, attempts: u32, error: String) -> Failure {
        tracing::warn!(
            consumer = &*self.assignment.key.consumer.name, position, attempts, %error,
            "the handler failed"
        );
        let used_up = attempts > self.assignment.consumer.settings.retries;
        let retry_in = if used_up {
            Duration::ZERO
        } else {
            wait(self.assignment.consumer.settings.backoff, attempts)
        };
        Failure {
            position,
            attempts,
            retry_in,
            error: shortened(error),
        }
    }

    /// A handler that broke the rules is not tried again.
    async fn stop_at_once(&mut self, work: Work, claim: &Claim, error: String) -> Turn {
        let position = work
            .job
            .events
            .first()
            .map_or(claim.checkpoint.position, |event| event.global_position);
        let progress = NewCheckpoint {
            position: claim.checkpoint.position,
            state: State::Stopped,
            failure: Some(Failure {
                position,
                attempts: claim.checkpoint.attempts.saturating_add(1),
                retry_in: Duration::ZERO,
                error: error.clone(),
            }),
        };
        match self.note(claim, &progress).await {
            Ok(Done::Elsewhere(claim)) => self.move_to(
                claim.incarnation,
                claim.checkpoint.epoch,
                claim.checkpoint.position,
            ),
            Ok(_) => return self.stopped(Some(position), error),
            Err(trouble) => {
                self.work = Some(work);
                return self.recover(trouble.to_string()).await;
            }
        }
        Turn::Go
    }

    fn stopped(&mut self, position: Option<i64>, error: String) -> Turn {
        tracing::error!(
            consumer = &*self.assignment.key.consumer.name, position, %error,
            "the consumer stopped; mend the cause, then resume it or start a worker again"
        );
        self.barred_at = Some(self.shared.snapshot.borrow().number);
        let state = ConsumerState::Stopped { position, error };
        self.cell.set_state(state.clone());
        if self.until.is_some() {
            Turn::End(state)
        } else {
            Turn::Go
        }
    }

    fn bar(&mut self, claim: &Claim) {
        self.barred_at = Some(self.shared.snapshot.borrow().number);
        let state = if claim.checkpoint.scope != *self.assignment.consumer.enrolment.scope {
            scope_changed(
                &claim.checkpoint.scope,
                &self.assignment.consumer.enrolment.scope,
            )
        } else if claim.checkpoint.state == State::Paused {
            ConsumerState::Paused
        } else {
            ConsumerState::Stopped {
                position: claim.checkpoint.failed_position,
                error: claim.checkpoint.error.clone().unwrap_or_default(),
            }
        };
        self.cell.set_state(state);
    }

    /// Waits for the database, longer each time.
    async fn recover(&mut self, error: String) -> Turn {
        self.troubles = self.troubles.saturating_add(1);
        let backoff = Backoff {
            min: Duration::from_millis(50),
            max: Duration::from_secs(10),
        };
        let pause = wait(backoff, self.troubles);
        tracing::warn!(
            consumer = &*self.assignment.key.consumer.name, %error, troubles = self.troubles,
            "the database could not be used; trying again in {pause:?}"
        );
        self.cell.set_state(ConsumerState::Waiting { error });
        self.ahead = None;
        self.rest(pause).await;
        Turn::Go
    }

    /// Waits, unless the worker stops or somebody changes the row meanwhile: an operator who
    /// resumes or pauses a consumer does not wait for its backoff.
    async fn rest(&mut self, pause: Duration) {
        let key = &self.assignment.key;
        let mut snapshot = self.shared.snapshot.clone();
        let before = snapshot.borrow().rows.get(key).map(Checkpoint::mark);
        tokio::select! {
            () = time::sleep(pause) => {}
            _ = snapshot.wait_for(|snapshot| snapshot.rows.get(key).map(Checkpoint::mark) != before) => {}
            () = self.shared.stopped() => {}
        }
    }
}

/// Measures a transaction, and completes its span.
async fn ended(
    key: &SegmentId,
    span: tracing::Span,
    transaction: impl Future<Output = Result<Done, Trouble>>,
) -> Result<Done, Trouble> {
    let began = Instant::now();
    let done = transaction.await;
    let took = began.elapsed();
    match &done {
        Ok(Done::Saved {
            position, tally, ..
        }) => {
            span.record("to", position);
            metrics::batch(key, *tally, took);
            metrics::set_aside(key, *tally);
        }
        Ok(Done::Failed { .. }) => metrics::error(key, "handler"),
        Err(Trouble::Violation { .. }) => metrics::error(key, "commit"),
        Err(_) => metrics::error(key, "database"),
        Ok(_) => {}
    }
    span.record("duration_ms", took.as_secs_f64() * 1000.0);
    done
}

fn barrier(scope: &str, state: State, row_scope: &str, row: &Checkpoint) -> Option<ConsumerState> {
    match state {
        State::Paused => Some(ConsumerState::Paused),
        State::Stopped => Some(ConsumerState::Stopped {
            position: row.failed_position,
            error: row.error.clone().unwrap_or_default(),
        }),
        State::Running if row_scope != scope => Some(scope_changed(row_scope, scope)),
        State::Running => None,
    }
}

fn scope_changed(checkpoint: &str, code: &str) -> ConsumerState {
    let listed = |scope: &str| scope.replace('\n', ", ");
    ConsumerState::ScopeChanged {
        checkpoint: listed(checkpoint),
        code: listed(code),
    }
}

/// Doubling from the shortest to the longest wait, up to a quarter less by chance, so that many
/// who failed together do not come back together.
fn wait(backoff: Backoff, attempts: u32) -> Duration {
    let doubled = backoff
        .min
        .saturating_mul(1 << attempts.saturating_sub(1).min(20));
    doubled
        .min(backoff.max)
        .mul_f64(1.0 - fastrand::f64() / 4.0)
}

/// An error as the row keeps it: long enough to tell, short enough for a table.
fn shortened(mut error: String) -> String {
    const LONGEST: usize = 4_000;
    if error.len() > LONGEST {
        let end = (0..=LONGEST)
            .rev()
            .find(|&at| error.is_char_boundary(at))
            .unwrap_or(0);
        error.truncate(end);
        error.push('…');
    }
    error
}
