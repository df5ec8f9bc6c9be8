//! A lane: one consumer, or one segment of it, working through its events batch by batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time;
use tracing::Instrument as _;

use super::board::{Cell, First, LaneState, Place};
use super::dialect::{
    Checkpoint, Claim, Failure, LaneKey, Progress, ServerLife, State, WorkerBackend,
};
use super::feed::{Batch, Feed, Filter, SLICES};
use super::measure;
use super::roster::Vacancy;
use super::shared::Shared;
use super::transact::{Done, Job, Seat, Tally, Trouble, Try, record};
use crate::contract::{Backoff, PersistedEvent};
use crate::store::StoreError;

/// The next batch, being read while the one before it is handled.
///
/// A task, and not a future of the lane: a lane that waits for its retry does not poll, and a
/// reader that nobody polls would keep the log from all others. One that is no longer wanted goes
/// on to its end, and what it read is there for whoever comes next.
struct Ahead {
    after: i64,
    read: JoinHandle<(Feed, Result<Batch, StoreError>)>,
}

/// What a lane does with a batch whose events it has not all handled.
struct Work {
    batch: Arc<Batch>,
    job: Job,
}

/// One consumer, or one segment of it, at work.
pub(crate) struct Lane<DB: WorkerBackend> {
    shared: Arc<Shared<DB>>,
    /// Where it reads.
    reads_on: Handle,
    seat: Seat<DB>,
    cell: Arc<Cell>,
    /// The lane ends when it has reached this position.
    until: Option<i64>,
    place: Option<Place>,
    feed: Option<Feed>,
    ahead: Option<Ahead>,
    work: Option<Work>,
    /// A batch-wise handler failed somewhere up to this position: batches stay this small until
    /// it is passed.
    suspected: Option<(i64, usize)>,
    /// The survey that its row is first in: one before that does not show that the row is gone.
    opened_in: u64,
    /// The survey that it has looked at.
    looked_at: u64,
    /// The survey in which the row forbade to run.
    barred_at: Option<u64>,
    troubles: u32,
}

enum Turn {
    Go,
    End(LaneState),
}

impl<DB: WorkerBackend> Lane<DB> {
    pub(crate) fn new(
        shared: Arc<Shared<DB>>,
        reads_on: Handle,
        vacancy: Vacancy<DB>,
        until: Option<i64>,
    ) -> Self {
        let Vacancy { survey, post, cell } = vacancy;
        let key = cell.key.clone();
        Self {
            shared,
            reads_on,
            seat: Seat {
                post,
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
            opened_in: survey,
            looked_at: 0,
            barred_at: None,
            troubles: 0,
        }
    }

    /// Works until the worker stops, or until everything there was to handle is handled.
    pub(crate) async fn run(mut self) {
        loop {
            let turn = if self.shared.is_stopping() {
                Turn::End(LaneState::ShutDown)
            } else {
                self.turn().await
            };
            if let Turn::End(state) = turn {
                // Why a consumer did not run says more than that the worker ended meanwhile.
                let stays = matches!(
                    self.cell.state(),
                    LaneState::Stopped { .. }
                        | LaneState::Paused
                        | LaneState::ScopeChanged { .. }
                        | LaneState::Forgotten
                );
                if !stays || state != LaneState::ShutDown {
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

    /// Compares with the newest survey: what operators and other processes did to the row.
    fn look_at_row(&mut self) -> Option<LaneState> {
        let survey = Arc::clone(&self.shared.survey.borrow());
        let life = self.shared.frontier.borrow().life;
        self.looked_at = survey.number;
        if survey.number < self.opened_in || survey.life != life {
            return None;
        }
        let Some(row) = survey.rows.get(&self.seat.key) else {
            return Some(LaneState::Forgotten);
        };
        if self.barred_at.is_some_and(|number| survey.number <= number) {
            return Some(self.cell.state());
        }
        if let Some(barrier) = barrier(&self.seat.post.enrolment.scope, row.state, &row.scope, row)
        {
            return Some(barrier);
        }
        self.barred_at = None;
        let resized = row.slice_to != self.seat.slice_to;
        let stale = resized
            || self.place.is_none_or(|place| {
                place.life != life || place.epoch < row.epoch || place.after < row.position
            });
        if resized {
            self.seat.slice_to = row.slice_to;
            self.feed = None;
        }
        if stale {
            self.move_to(life, row.epoch, row.position);
        }
        None
    }

    fn move_to(&mut self, life: ServerLife, epoch: i64, checkpoint: i64) {
        self.work = None;
        self.ahead = None;
        self.suspected = None;
        self.set_place(Some(Place {
            life,
            slice_to: self.seat.slice_to,
            epoch,
            checkpoint,
            after: checkpoint,
        }));
        self.cell.set_state(LaneState::Running);
    }

    fn set_place(&mut self, place: Option<Place>) {
        self.place = place;
        self.cell.set_place(place);
    }

    async fn wait_behind(&mut self, barrier: LaneState) -> Turn {
        if barrier == LaneState::Forgotten && self.is_merged() {
            return Turn::End(barrier);
        }
        self.work = None;
        self.ahead = None;
        if self.cell.state() != barrier {
            tracing::warn!(consumer = &*self.seat.key.consumer, state = ?barrier, "the consumer does not run");
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
        let survey = self.shared.survey.borrow();
        let key = &self.seat.key;
        survey
            .rows
            .keys()
            .any(|row| row.consumer == key.consumer && row.version == key.version)
    }

    /// Waits for a survey that the lane has not looked at, or the end of the worker.
    async fn wait_for_news(&mut self) {
        let mut survey = self.shared.survey.clone();
        let number = self.looked_at;
        tokio::select! {
            _ = survey.wait_for(|survey| survey.number > number) => {}
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
        if batch.life != place.life {
            // A restart of the server came in between; the next survey tells where the row is.
            self.set_place(None);
            return Ok(None);
        }
        Ok(Some(batch))
    }

    /// Starts to read the batch after a position.
    fn read(&mut self, after: i64) -> JoinHandle<(Feed, Result<Batch, StoreError>)> {
        let shared = Arc::clone(&self.shared);
        let mut feed = self.feed.take().unwrap_or_else(|| Feed::new(self.filter()));
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
            scope: Arc::clone(&self.seat.post.scope),
            slices: slice(self.seat.key.slice_from)..slice(self.seat.slice_to),
        }
    }

    fn limit(&self, after: i64) -> usize {
        match self.suspected {
            Some((up_to, size)) if after < up_to => size,
            _ => self
                .seat
                .post
                .settings
                .batch_len()
                .saturating_mul(self.batches()),
        }
    }

    /// How many batches the next transaction is to hold: more than one while lanes wait for
    /// connections, which none of them gets sooner by committing more often.
    fn batches(&self) -> usize {
        if self.seat.post.settings.may_grow && self.shared.slots.is_crowded() {
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
            self.cell.set_state(LaneState::Running);
        }
        if self.until.is_some_and(|until| batch.up_to >= until) {
            return Turn::End(LaneState::CaughtUp);
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
                    .sleep(&self.cell, scope, batch.up_to, batch.life)
            })
            .flatten();
        let mut frontier = self.shared.frontier.clone();
        let events = async {
            match &sleep {
                Some(sleep) => sleep.woken().await,
                None => {
                    let _ = frontier
                        .wait_for(|seen| seen.settled > batch.up_to || seen.life != batch.life)
                        .await;
                }
            }
        };
        let key = &self.seat.key;
        let mut survey = self.shared.survey.clone();
        let (number, row) = {
            let survey = survey.borrow();
            (survey.number, survey.rows.get(key).cloned())
        };
        if number != self.looked_at {
            return;
        }
        let row_changed = survey.wait_for(|survey| survey.rows.get(key) != row.as_ref());
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
        let attempt = Try {
            shared: &shared,
            seat: &self.seat,
            job: &work.job,
        };
        let span = self.span(work);
        let transaction = attempt.transact().instrument(span.clone());
        ended(&self.seat.key, span, transaction).await
    }

    fn span(&self, work: &Work) -> tracing::Span {
        let attempt = match self.cell.state() {
            LaneState::Retrying { attempts, .. } => attempts.saturating_add(1),
            _ => 1,
        };
        tracing::info_span!(
            "consumer.batch",
            consumer = &*self.seat.key.consumer,
            version = self.seat.key.version,
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
                // Whoever has the row works on it; its checkpoint shows in the next survey.
                let pause = self.shared.options.poll_interval;
                self.cell.rests_until(Instant::now());
                self.rest(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            }
            Done::Elsewhere(claim) => {
                self.move_to(claim.life, claim.epoch, claim.position);
            }
            Done::Barred(claim) => self.bar(&claim),
            Done::Resized => {
                self.shared.want_survey();
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
        self.cell.set_state(LaneState::Running);
        tracing::debug!(
            consumer = &*self.seat.key.consumer,
            from = claim.position,
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
        let before = if claim.failed_position == Some(position) {
            claim.attempts
        } else {
            0
        };
        let failure = self.failure(position, before.saturating_add(1), error);
        let progress = Progress {
            position: claim.position,
            state: State::Running,
            failure: Some(failure.clone()),
        };
        match self.note(&claim, &progress).await {
            Ok(Done::Elsewhere(claim)) => self.move_to(claim.life, claim.epoch, claim.position),
            Ok(Done::Barred(claim)) => self.bar(&claim),
            Ok(_) => {
                self.work = Some(work);
                self.cell.set_state(LaneState::Retrying {
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
    async fn note(&mut self, claim: &Claim, progress: &Progress) -> Result<Done, Trouble> {
        loop {
            let record = record(&self.shared, &self.seat, claim, progress);
            let done = self.shared.answer(record).await?;
            if !matches!(done, Done::Busy) || self.shared.is_stopping() {
                return Ok(done);
            }
            self.rest(self.shared.options.poll_interval).await;
        }
    }

    fn failure(&self, position: i64, attempts: u32, error: String) -> Failure {
        tracing::warn!(
            consumer = &*self.seat.key.consumer, position, attempts, %error,
            "the handler failed"
        );
        let used_up = attempts > self.seat.post.settings.retries;
        let retry_in = if used_up {
            Duration::ZERO
        } else {
            wait(self.seat.post.settings.backoff, attempts)
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
            .map_or(claim.position, |event| event.global_position);
        let progress = Progress {
            position: claim.position,
            state: State::Stopped,
            failure: Some(Failure {
                position,
                attempts: claim.attempts.saturating_add(1),
                retry_in: Duration::ZERO,
                error: error.clone(),
            }),
        };
        match self.note(claim, &progress).await {
            Ok(Done::Elsewhere(claim)) => self.move_to(claim.life, claim.epoch, claim.position),
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
            consumer = &*self.seat.key.consumer, position, %error,
            "the consumer stopped; mend the cause, then resume it or start a worker again"
        );
        self.barred_at = Some(self.shared.survey.borrow().number);
        let state = LaneState::Stopped { position, error };
        self.cell.set_state(state.clone());
        if self.until.is_some() {
            Turn::End(state)
        } else {
            Turn::Go
        }
    }

    fn bar(&mut self, claim: &Claim) {
        self.barred_at = Some(self.shared.survey.borrow().number);
        let state = if claim.scope != *self.seat.post.enrolment.scope {
            scope_changed(&claim.scope, &self.seat.post.enrolment.scope)
        } else if claim.state == State::Paused {
            LaneState::Paused
        } else {
            LaneState::Stopped {
                position: claim.failed_position,
                error: claim.error.clone().unwrap_or_default(),
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
            consumer = &*self.seat.key.consumer, %error, troubles = self.troubles,
            "the database could not be used; trying again in {pause:?}"
        );
        self.cell.set_state(LaneState::Waiting { error });
        self.ahead = None;
        self.rest(pause).await;
        Turn::Go
    }

    /// Waits, unless the worker stops or somebody changes the row meanwhile: an operator who
    /// resumes or pauses a consumer does not wait for its backoff.
    async fn rest(&mut self, pause: Duration) {
        let key = &self.seat.key;
        let mut survey = self.shared.survey.clone();
        let before = survey.borrow().rows.get(key).map(Checkpoint::mark);
        tokio::select! {
            () = time::sleep(pause) => {}
            _ = survey.wait_for(|survey| survey.rows.get(key).map(Checkpoint::mark) != before) => {}
            () = self.shared.stopped() => {}
        }
    }
}

/// Measures a transaction, and completes its span.
async fn ended(
    key: &LaneKey,
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
            measure::batch(key, *tally, took);
            measure::set_aside(key, *tally);
        }
        Ok(Done::Failed { .. }) => measure::error(key, "handler"),
        Err(Trouble::Violation { .. }) => measure::error(key, "commit"),
        Err(_) => measure::error(key, "database"),
        Ok(_) => {}
    }
    span.record("duration_ms", took.as_secs_f64() * 1000.0);
    done
}

fn barrier(scope: &str, state: State, row_scope: &str, row: &Checkpoint) -> Option<LaneState> {
    match state {
        State::Paused => Some(LaneState::Paused),
        State::Stopped => Some(LaneState::Stopped {
            position: row.failed_position,
            error: row.error.clone().unwrap_or_default(),
        }),
        State::Running if row_scope != scope => Some(scope_changed(row_scope, scope)),
        State::Running => None,
    }
}

fn scope_changed(checkpoint: &str, code: &str) -> LaneState {
    let listed = |scope: &str| scope.replace('\n', ", ");
    LaneState::ScopeChanged {
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
