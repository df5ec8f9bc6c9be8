//! A lane: one segment of a consumer, handling its events batch by batch.

mod admission;
mod attempt;
pub(crate) mod backoff;
mod between_claims;
pub(crate) mod effects;
pub(crate) mod failure;
pub(crate) mod handler;
mod job;
pub(crate) mod keep_alive;
pub(crate) mod mark;
mod missing;
mod outcome;
mod parking;
mod policy;
mod presence;
mod read_ahead;
mod record;
mod retry;
mod row_address;
mod saving;
mod segment;
mod step_aside;
mod try_again;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument as _;

use crate::backend::{
    Backend, Checkpoint, Claim, Incarnation, NamedEvents, StoreError, expire_marks_of_the_dead,
};
use crate::contract::chain;
use crate::worker::context::Shared;
use crate::worker::lane::attempt::Attempt;
use crate::worker::lane::backoff::sleep_unless;
use crate::worker::lane::failure::{AttemptError, ErrorKind};
use crate::worker::lane::job::Job;
use crate::worker::lane::outcome::Outcome;
use crate::worker::lane::presence::Presence;
use crate::worker::lane::read_ahead::ReadAhead;
use crate::worker::lane::row_address::RowAddress;
use crate::worker::lane::segment::Segment;
use crate::worker::log::batch::Batch;
use crate::worker::metrics;
use crate::worker::poller::assignment::NewLane;
use crate::worker::poller::snapshot::Snapshot;
use crate::worker::progress::lane::{Cursor, FirstPending, LaneProgress};
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::tally::Tally;
use crate::worker::threads::Reader;
use crate::worker::timeouts::{after, fraction};

/// One segment of a consumer at work.
pub(crate) struct Lane<DB: Backend> {
    shared: Arc<Shared<DB>>,
    segment: Segment<DB>,
    progress: Arc<LaneProgress>,
    /// The position at which the lane ends, in a run that ends.
    until: Option<i64>,
    reader: ReadAhead,
    /// The events that are left of a batch that was read.
    job: Option<Job>,
    suspects: Option<Suspects>,
    /// The last event that was read again before another attempt, and how often it had failed.
    read_after: Option<(i64, u32)>,
    /// What the row named when it was last claimed in vain. A snapshot may not show that yet.
    claimed: NamedEvents,
    /// An event for which the lane waited until it was deleted.
    deleted: Option<i64>,
    /// The first snapshot that contains the row; an earlier one does not show that it is gone.
    first_snapshot: u64,
    /// The last snapshot that the lane has seen.
    seen: Arc<Snapshot>,
    /// When the lane last saw or saved its checkpoint.
    checkpoint_at: Instant,
    /// The last snapshot when the row turned out to be blocked.
    blocked_in: Option<u64>,
    /// How often the row was elsewhere since the last save.
    moves: u32,
    /// How often the database has failed in a row.
    database_errors: u32,
}

/// A handler of whole batches failed somewhere up to this position: batches stay small until then.
struct Suspects {
    up_to: i64,
    batch_len: usize,
}

/// Whether the lane continues or ends in a state.
type Turn = ControlFlow<ConsumerState>;

/// How often a lane moves to where its row is before it waits for a snapshot.
const MAX_MOVES: u32 = 8;

const CONTINUE: Turn = ControlFlow::Continue(());

impl<DB: Backend> Lane<DB> {
    /// A lane that ends at the position `until`, if there is one.
    pub(crate) fn new(
        shared: Arc<Shared<DB>>,
        reader: Reader,
        new: NewLane<DB>,
        until: Option<i64>,
    ) -> Self {
        let NewLane {
            snapshot,
            consumer,
            progress,
        } = new;
        Self {
            shared,
            segment: Segment {
                consumer,
                key: progress.key.clone(),
                slice_to: 0,
                row: RowAddress::default(),
                presence: Presence::default(),
            },
            progress,
            until,
            reader: ReadAhead::new(reader),
            job: None,
            suspects: None,
            read_after: None,
            claimed: NamedEvents::default(),
            deleted: None,
            first_snapshot: snapshot,
            seen: Arc::default(),
            checkpoint_at: Instant::now(),
            blocked_in: None,
            moves: 0,
            database_errors: 0,
        }
    }

    /// Works until the worker stops, or until everything before `until` is handled.
    pub(crate) async fn run(mut self) {
        loop {
            if self.shared.is_stopping() {
                // Why a consumer is blocked says more than that the worker has ended since.
                if !self.progress.state().is_blocked() {
                    self.progress.set_state(ConsumerState::ShutDown);
                }
                return;
            }
            if let ControlFlow::Break(state) = self.turn().await {
                self.progress.set_state(state);
                return;
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        if let Some(state) = self.check_row() {
            return self.wait_while_blocked(state).await;
        }
        let Some(cursor) = self.progress.cursor() else {
            self.wait_for_snapshot().await;
            return CONTINUE;
        };
        // The row of an event that could not be handled may have been corrected.
        let discards = self.shared.log.discards();
        self.job
            .take_if(|job| job.batch.defect.is_some() || job.batch.discards != discards);
        if self.job.is_none() {
            match self.next_batch(&cursor).await {
                Ok(Some(batch)) if batch.events.is_empty() => return self.pass_over(&batch).await,
                Ok(Some(batch)) => self.job = Some(self.start_job(&cursor, batch)),
                Ok(None) => return CONTINUE,
                Err(error) => {
                    let error = chain(&error).to_string();
                    return self.wait_for_database(error).await;
                }
            }
        }
        let Some(job) = self.job.take() else {
            return CONTINUE;
        };
        match self.may_attempt(&job).await {
            Ok(None) => {}
            Ok(Some(state)) => return self.step_aside(&job, state).await,
            Err(error) => return self.retry_later(job, error).await,
        }
        match self.attempt(&job).await {
            Ok(outcome) => self.conclude(job, outcome).await,
            Err(error) => self.retry_later(job, error).await,
        }
    }

    async fn conclude(&mut self, job: Job, outcome: Outcome) -> Turn {
        self.database_errors = 0;
        match outcome {
            Outcome::Saved { position, tally } => self.advance(job, position, tally),
            Outcome::Failed { claim, failure } => {
                return self.handle_failure(job, &claim, failure).await;
            }
            Outcome::Stopped { error } => return self.stopped(job.position_of(0), error),
            Outcome::Moved(claim) => {
                self.move_to_claim(&claim);
                self.moves += 1;
                if self.moves > MAX_MOVES {
                    // The snapshot disagrees with the row, as after a change by hand.
                    self.moves = 0;
                    self.shared.request_snapshot();
                    self.wait_for_snapshot().await;
                }
            }
            Outcome::Blocked(claim) => self.block(&claim),
            Outcome::Held(position) => {
                self.progress
                    .set_state(ConsumerState::WaitingForMerge { position });
                self.wait_for_snapshot().await;
            }
            Outcome::Unknown => {}
            Outcome::LeftToOthers(claim) => {
                let state = ConsumerState::stopped(&claim.checkpoint);
                return self.step_aside(&job, state).await;
            }
            Outcome::Resized | Outcome::Gone => {
                self.shared.request_snapshot();
                self.wait_for_snapshot().await;
            }
            Outcome::Busy => {
                // The process that has the row works on it; its progress shows in the next
                // snapshot.
                let pause = self.busy_pause();
                self.job = Some(job);
                self.expire_marks_of_the_dead().await;
                self.progress.expect_pause_until(Instant::now());
                self.pause(fraction(pause, 0.75 + fastrand::f64() / 2.0))
                    .await;
            }
            Outcome::NotDue { attempts, wait } => {
                self.progress.expect_pause_until(after(wait));
                self.pause(wait).await;
                if let Some(position) = job.position_of(0) {
                    self.read_again(position, attempts).await;
                }
            }
            Outcome::Outdated { position, attempts } => self.read_again(position, attempts).await,
        }
        CONTINUE
    }

    /// Makes an event that has failed be read again before the next attempt.
    async fn read_again(&mut self, position: i64, attempts: u32) {
        self.job = None;
        self.reader.discard();
        self.shared.log.discard_at(position).await;
        self.read_after = Some((position, attempts));
    }

    fn advance(&mut self, job: Job, position: i64, tally: Tally) {
        self.moves = 0;
        self.progress.add(tally);
        // After the tally: a task that waits for the position finds the batch counted.
        self.checkpoint_at = Instant::now();
        if let Some(cursor) = self.progress.cursor() {
            self.progress.set_cursor(Some(Cursor {
                checkpoint: position,
                after: position,
                ..cursor
            }));
        }
        self.progress.set_state(ConsumerState::Running);
        tracing::debug!(
            consumer = self.segment.name(),
            from = job.checkpoint,
            to = position,
            events = tally.events,
            parked = tally.parked,
            skipped = tally.skipped,
            "batch saved"
        );
        self.job = job.rest_after(position).map(|rest| {
            self.set_first_pending(&rest);
            Job {
                take: rest.take.min(self.limit(position)),
                ..rest
            }
        });
    }
}

/// Reactions to changes of the row by operators and other processes.
impl<DB: Backend> Lane<DB> {
    /// Compares the lane with the newest snapshot; returns a state if the row may not run.
    fn check_row(&mut self) -> Option<ConsumerState> {
        let snapshot = Arc::clone(&self.shared.snapshot.borrow());
        let incarnation = self.shared.frontier.borrow().incarnation;
        self.seen = Arc::clone(&snapshot);
        if snapshot.number < self.first_snapshot || snapshot.incarnation != incarnation {
            return None;
        }
        let Some(row) = snapshot.rows.get(&self.segment.key) else {
            let held_back = self.shared.progress.held_back(&self.segment.key.consumer);
            return Some(held_back.map_or(ConsumerState::Forgotten, ConsumerState::HeldBack));
        };
        if self
            .blocked_in
            .is_some_and(|number| snapshot.number <= number)
        {
            return Some(self.progress.state());
        }
        if let Some(state) = ConsumerState::blocked(row, self.segment.scope_text()) {
            return Some(state);
        }
        self.blocked_in = None;
        // A snapshot that is older than the last save shows an earlier checkpoint.
        let is_later = snapshot.began_at.is_some_and(|at| at > self.checkpoint_at);
        self.follow_row(row, incarnation, is_later);
        None
    }

    /// Starts over from the row if it is not where the lane expects it, or names an event that the lane has not
    /// seen. A row that was read after the lane's last save is behind the lane only if it was created again or
    /// lowered by hand.
    fn follow_row(&mut self, row: &Checkpoint, incarnation: Incarnation, is_later: bool) {
        let is_resized = row.slice_to != self.segment.slice_to;
        if is_resized {
            self.segment.slice_to = row.slice_to;
            self.reader.resize();
        }
        let is_stale = |cursor: Cursor| {
            cursor.incarnation != incarnation
                || cursor.epoch < row.epoch
                || cursor.after < row.position
                || (is_later && (row.epoch < cursor.epoch || row.position < cursor.checkpoint))
                // It was deleted before the lane read the log, or is out of scope: reading again tells which.
                || cursor.has_passed_unseen(row.named())
        };
        if is_resized || self.progress.cursor().is_none_or(is_stale) {
            self.move_to(incarnation, row.epoch, row.position);
        }
    }

    fn move_to_claim(&mut self, claim: &Claim) {
        let row = &claim.checkpoint;
        let cursor = self.progress.cursor();
        if cursor.is_none_or(|cursor| row.is_restarted(cursor.epoch, cursor.checkpoint)) {
            // The next snapshot would do it too late.
            self.shared.log.discard();
        }
        self.move_to(claim.incarnation, row.epoch, row.position);
        self.claimed = row.named();
    }

    fn move_to(&mut self, incarnation: Incarnation, epoch: i64, checkpoint: i64) {
        self.job = None;
        self.reader.discard();
        self.suspects = None;
        self.read_after = None;
        self.claimed = NamedEvents::default();
        self.deleted = None;
        self.checkpoint_at = Instant::now();
        self.progress.set_cursor(Some(Cursor {
            incarnation,
            slice_to: self.segment.slice_to,
            epoch,
            checkpoint,
            after: checkpoint,
            excluded: NamedEvents::default(),
        }));
        self.progress.set_state(ConsumerState::Running);
    }

    fn block(&mut self, claim: &Claim) {
        self.blocked_in = Some(self.shared.snapshot.borrow().number);
        let state = ConsumerState::blocked(&claim.checkpoint, self.segment.scope_text());
        if let Some(state) = state {
            self.progress.set_state(state);
        }
    }

    async fn wait_while_blocked(&mut self, state: ConsumerState) -> Turn {
        let is_gone = matches!(state, ConsumerState::Forgotten | ConsumerState::HeldBack(_));
        if is_gone && self.is_merged() {
            return ControlFlow::Break(state);
        }
        self.job = None;
        self.reader.discard();
        if self.is_stopped_by_others() {
            return self.try_again().await;
        }
        if self.progress.state() != state {
            tracing::warn!(consumer = self.segment.name(), %state, "the consumer does not run");
        }
        if is_gone {
            // If the row comes back, it is another one.
            self.progress.set_cursor(None);
        }
        self.progress.set_state(state.clone());
        if self.until.is_some() {
            return ControlFlow::Break(state);
        }
        self.wait_for_snapshot().await;
        CONTINUE
    }

    /// Whether the row is gone because it was merged into its neighbour.
    fn is_merged(&self) -> bool {
        let snapshot = self.shared.snapshot.borrow();
        let key = &self.segment.key;
        snapshot.rows.keys().any(|row| row.consumer == key.consumer)
    }

    /// Waits for a snapshot that the lane has not seen, or until the worker stops.
    async fn wait_for_snapshot(&mut self) {
        let mut snapshot = self.shared.snapshot.clone();
        let seen = self.seen.number;
        tokio::select! {
            _ = snapshot.wait_for(|snapshot| snapshot.number > seen) => {}
            () = self.shared.stopped() => {}
        }
    }

    /// Where a process that was killed may have left marks, ends them.
    async fn expire_marks_of_the_dead(&self) {
        let consumer = &self.segment.key.consumer;
        if DB::HOLDS_CLAIMS {
            return;
        }
        let expired = async {
            let mut connection = self.shared.store.pool().acquire().await?;
            let statements = &self.shared.statements;
            expire_marks_of_the_dead::<DB>(statements, &mut connection, consumer).await
        };
        // The next attempt looks again.
        if let Err(error) = expired.await {
            let error = chain(&error).to_string();
            tracing::debug!(%consumer, error, "the marks of other processes could not be read");
        }
    }

    /// How long to leave a row to the process that has it, whose release wakes no lane.
    fn busy_pause(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(1);
        self.shared.options.poll_interval.min(LONGEST)
    }

    /// Waits, unless the worker stops or the row changes: an operator who resumes or pauses a
    /// consumer does not wait for its backoff.
    async fn pause(&mut self, pause: Duration) {
        let key = &self.segment.key;
        let mut snapshot = self.shared.snapshot.clone();
        let before = snapshot.borrow().rows.get(key).map(Checkpoint::progress);
        let is_changed =
            |snapshot: &Arc<Snapshot>| snapshot.rows.get(key).map(Checkpoint::progress) != before;
        tokio::select! {
            () = sleep_unless(pause, &mut snapshot, is_changed) => {}
            () = self.shared.stopped() => {}
        }
    }
}

/// Reading batches, and waiting for events.
impl<DB: Backend> Lane<DB> {
    /// The next batch, which may be empty; `None` if the lane has to look at its row first.
    async fn next_batch(&mut self, cursor: &Cursor) -> Result<Option<Batch>, StoreError> {
        let limit = self.limit(cursor.after);
        let read = self
            .reader
            .next(&self.shared, &self.segment, cursor.after, limit);
        let batch = read.await?;
        if let Some(batch) = &batch
            && batch.incarnation != cursor.incarnation
        {
            // The server has restarted; the next snapshot tells where the row is.
            self.progress.set_cursor(None);
            return Ok(None);
        }
        // What was read ahead may be outdated by now.
        let discards = self.shared.log.discards();
        match batch.filter(|batch| batch.discards == discards) {
            Some(batch) => {
                let batch = self.with_pending(batch).await?;
                Ok(batch.map(|batch| batch.before_unknown(|event| self.knows(event))))
            }
            None => Ok(None),
        }
    }

    /// How many events the batch after a position may have. While lanes wait for connections a batch
    /// may grow, since committing more often would not get them a connection any sooner.
    fn limit(&self, after: i64) -> usize {
        if let Some(suspects) = self.suspects.as_ref().filter(|one| after < one.up_to) {
            return suspects.batch_len;
        }
        let settings = &self.segment.consumer.settings;
        let may_grow = settings.may_grow && self.shared.connections.is_crowded();
        let batches = if may_grow { DB::MOST_BATCHES } else { 1 };
        settings.batch_len().saturating_mul(batches)
    }

    /// Passes over a batch without events in scope. The row is not written: the poller advances it.
    async fn pass_over(&mut self, batch: &Batch) -> Turn {
        self.report_missing(batch);
        if let Some(cursor) = self.progress.cursor() {
            self.progress.set_cursor(Some(Cursor {
                after: cursor.after.max(batch.up_to),
                excluded: batch.excluded.or(cursor.excluded),
                ..cursor
            }));
            self.progress.set_state(ConsumerState::Running);
        }
        if self.until.is_some_and(|until| batch.up_to >= until) {
            return ControlFlow::Break(ConsumerState::CaughtUp);
        }
        self.wait_for_events(batch).await;
        CONTINUE
    }

    /// Waits for events after the batch that may be in scope, or until the row changes.
    async fn wait_for_events(&mut self, batch: &Batch) {
        let (scope, key) = (&self.segment.consumer.scope, &self.segment.key);
        let row = self.seen.rows.get(key);
        // A lane that ends at a position has to see that it is reached. One that is asleep does not see whether
        // an event was deleted.
        let may_sleep = !scope.is_empty() && self.until.is_none() && !self.knows_later(batch.up_to);
        let sleep = may_sleep
            .then(|| {
                let (up_to, incarnation) = (batch.up_to, batch.incarnation);
                self.shared
                    .idle
                    .sleep(&self.progress, scope, up_to, incarnation)
            })
            .flatten();
        let mut frontier = self.shared.frontier.clone();
        let events = async {
            match &sleep {
                Some(sleep) => sleep.woken().await,
                None => {
                    let has_news = frontier.wait_for(|observed| {
                        observed.settled > batch.up_to || observed.incarnation != batch.incarnation
                    });
                    let _ = has_news.await;
                }
            }
        };
        let mut snapshot = self.shared.snapshot.clone();
        let number = self.seen.number;
        // The snapshot may be older than the last save; only the next one tells.
        let checkpoint = self.progress.cursor().map(|cursor| cursor.checkpoint);
        let is_behind = row.map(|row| row.position) < checkpoint;
        let row_changed = snapshot.wait_for(|snapshot| {
            let is_next = is_behind && snapshot.number > number;
            is_next || snapshot.rows.get(key) != row
        });
        tokio::select! {
            () = events => {}
            _ = row_changed => {}
            () = self.shared.stopped() => {}
        }
    }

    fn start_job(&self, cursor: &Cursor, batch: Batch) -> Job {
        self.report_missing(&batch);
        let job = Job {
            read_after: self.read_after,
            ..Job::new(cursor, batch)
        };
        self.set_first_pending(&job);
        job
    }

    /// Records since when the events of a job have been waiting.
    fn set_first_pending(&self, job: &Job) {
        self.progress.set_first_pending(FirstPending {
            after: job.batch.after,
            up_to: job.batch.after,
            created_at: job.batch.events.first().map(|event| event.created_at),
            is_unreadable: job.is_unreadable(),
        });
    }
}

/// Handling a job.
impl<DB: Backend> Lane<DB> {
    /// Attempts the job while the next batch is read.
    async fn attempt(&mut self, job: &Job) -> Result<Outcome, AttemptError> {
        if job.is_whole() && self.shared.frontier.borrow().settled > job.batch.up_to {
            let limit = self.limit(job.batch.up_to);
            self.reader
                .start(&self.shared, &self.segment, job.batch.up_to, limit);
        }
        let attempt = Attempt {
            shared: &self.shared,
            segment: &self.segment,
            progress: &self.progress,
            job,
        };
        let span = self.span(job);
        let began = Instant::now();
        let result = attempt.run().instrument(span.clone()).await;
        self.report_metrics(job, &result, (began.elapsed(), &span));
        result
    }

    fn span(&self, job: &Job) -> tracing::Span {
        let attempt = match self.progress.state() {
            ConsumerState::Retrying { attempts, .. } => attempts.saturating_add(1),
            _ => 1,
        };
        tracing::info_span!(
            "consumer.batch",
            consumer = self.segment.name(),
            version = self.segment.key.consumer.version,
            from = job.checkpoint,
            events = job.take,
            attempt,
            to = tracing::field::Empty,
            duration_ms = tracing::field::Empty,
        )
    }

    fn report_metrics(
        &self,
        job: &Job,
        result: &Result<Outcome, AttemptError>,
        (took, span): (Duration, &tracing::Span),
    ) {
        let (log, key) = (&*self.shared.log_name, &self.segment.key);
        match result {
            Ok(Outcome::Saved { position, tally }) => {
                span.record("to", position);
                metrics::batch(log, key, tally.events, took);
                metrics::parked_or_skipped(log, key, tally.parked, tally.skipped);
            }
            Ok(Outcome::Failed { failure, .. }) => {
                let has_ended = failure.kind == ErrorKind::EndedTransaction;
                let kind = if has_ended {
                    "commit"
                } else {
                    job.failure_kind()
                };
                metrics::error(log, key, kind);
            }
            Ok(_) => {}
            Err(AttemptError::Database(_) | AttemptError::StaleConnection) => {
                metrics::error(log, key, "database");
            }
        }
        span.record("duration_ms", took.as_secs_f64() * 1000.0);
    }
}
