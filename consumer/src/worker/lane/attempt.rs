//! One batch, one transaction: claim, handle, save, commit (R3, R4).

use std::sync::Arc;

use sqlx::{Connection as _, Transaction};

use crate::backend::{Backend, Claim, Precedence, Remains, Run, TransactionGuard as _};
use crate::contract::{BatchError, Context};
use crate::worker::connections::{Lease, Parts, UnusedConnection};
use crate::worker::context::Shared;
use crate::worker::lane::effects::run_effects;
use crate::worker::lane::failure::{AttemptError, ErrorKind, Handled, HandlerFailure};
use crate::worker::lane::handler::{Limits, supervise};
use crate::worker::lane::job::Job;
use crate::worker::lane::keep_alive::keep_alive;
use crate::worker::lane::outcome::Outcome;
use crate::worker::lane::parking::Division;
use crate::worker::lane::record::{commit, roll_back, undo};
use crate::worker::lane::segment::Segment;
use crate::worker::metrics;
use crate::worker::progress::lane::LaneProgress;
use crate::worker::timeouts::after;

/// One attempt at a job.
pub(crate) struct Attempt<'a, DB: Backend> {
    pub(crate) shared: &'a Shared<DB>,
    pub(crate) segment: &'a Segment<DB>,
    pub(crate) progress: &'a LaneProgress,
    pub(crate) job: &'a Job,
}

/// How a transaction begins.
pub(super) enum Opening {
    /// The handler can be called.
    Ready(Ready),
    /// The policy was applied to the first event, and the transaction must be committed.
    Commit(Outcome),
    /// The job does not fit the row, and the transaction must be rolled back.
    RollBack(Outcome),
}

/// A claimed row and what the handler is given.
pub(super) struct Ready {
    pub(super) claim: Box<Claim>,
    pub(super) cx: Arc<Context>,
    pub(super) run: Run,
    pub(super) division: Division,
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
            mut session,
            ended_well,
            mut claimed,
        } = lease.begin()?;
        let only_folds = self.segment.consumer.only_folds();
        let needs_guard = !(only_folds && session.is_restored());
        let begin = if needs_guard {
            guard.begin()
        } else {
            guard.begin_fold()
        };
        let mut tx = self.shared.answer(connection.begin_with(begin)).await?;
        let ready = match self.shared.answer(self.open(&mut tx, needs_guard)).await? {
            Opening::Ready(ready) => ready,
            Opening::Commit(outcome) => {
                return self.shared.answer(commit(tx, ended_well, outcome)).await;
            }
            Opening::RollBack(outcome) => {
                return self.shared.answer(roll_back(tx, ended_well, outcome)).await;
            }
        };
        let backend = ready.claim.backend;
        let is_as_opened = if needs_guard {
            is_new || guard.is_same(&ready.claim.session)
        } else {
            session.is_still_on(backend)
        };
        if !is_as_opened {
            return Err(AttemptError::StaleConnection);
        }
        session.note_use(only_folds, backend);
        claimed.by(backend);
        let handled = self
            .handle_guarded(&ready, &mut tx, unused.as_mut(), guard)
            .await?;
        let outcome = match handled {
            Ok(index) => self.save_and_commit(tx, &ready, index, ended_well).await?,
            Err(failure) => match failure.kind {
                // On a new connection, the handler itself has changed the tables, or prepared it twice.
                ErrorKind::StaleStatement if !is_new => {
                    tracing::warn!(
                        consumer = self.segment.name(),
                        error = failure.error,
                        "a prepared statement is older than this batch; trying again on a new connection"
                    );
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

    /// Claims the row, applies the policy to an event whose attempts are used up, and determines
    /// what is left for the handler.
    pub(super) async fn open(
        &self,
        tx: &mut Transaction<'_, DB>,
        with_session: bool,
    ) -> Result<Opening, sqlx::Error> {
        let (statements, segment) = (&self.shared.statements, self.segment);
        let claim = match segment.claim(self.shared, tx, with_session).await? {
            Ok(claim) => claim,
            Err(outcome) => return Ok(Opening::RollBack(outcome)),
        };
        let claim = match self.admit(claim) {
            Ok(claim) => claim,
            Err(outcome) => return Ok(Opening::RollBack(outcome)),
        };
        if claim.precedence == Precedence::Taken {
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
        let events = &self.job.batch.events;
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
            let look = async { Ok::<_, sqlx::Error>(DB::remains(tx, &ready.claim).await) };
            remains = self.shared.answer(look).await?;
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
    pub(super) fn judge(
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
    pub(super) async fn handle_unused(
        &self,
        ready: &Ready,
        unused: &mut UnusedConnection<DB>,
    ) -> Handled {
        let connection = unused.begin().map_err(|error| BatchError::at(0, error));
        let connection = connection.map_err(|error| self.failure(ready, &error))?;
        let handled = self.handle(ready, connection).await;
        // After a failure it may be in the middle of a statement, or have plans of tables that changed.
        if handled.is_ok() {
            unused.set_idle();
        }
        handled
    }

    pub(super) async fn run_effects(&self, cx: &Arc<Context>) {
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
        if let Some(defect) = self.job.batch.defect.clone() {
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
pub(super) fn failed(ready: &Ready, failure: HandlerFailure) -> Outcome {
    Outcome::Failed {
        claim: ready.claim.clone(),
        failure,
    }
}

/// Fails if the connection is broken; an error of the server is an answer too.
async fn must_answer<DB: Backend>(tx: &mut Transaction<'_, DB>) -> Result<(), sqlx::Error> {
    match DB::touch(tx).await {
        Err(error) if error.as_database_error().is_none() => Err(error),
        _ => Ok(()),
    }
}
