//! The outcome of one event in one consumer, with the reasons.

use std::fmt;

use serde::Serialize;

use super::error::AdminError;
use super::lag::scope_of;
use super::operator::{Admin, declared_id};
use super::options::Target;
use super::parked::ParkedEvent;
use super::problems::{on_command_line, waits_for_release, ways_on, ways_out_of_parking};
use super::status::{consumer_and_version, waiting_for};
use super::text::count;
use crate::backend::{
    Backend, Checkpoint, ConsumerId, HeldBack, State, UnknownEvent, aggregate_slice, readable_event,
};
use crate::contract::PersistedEvent;
use crate::registry::entry::declared;
use crate::registry::handled::HandlerShape;

/// The outcome of an event in a consumer; see [`Admin::explain`].
///
/// ```
/// use consumer::admin::{Explanation, Outcome};
///
/// /// Whether an operator has to act.
/// fn is_stuck(explanation: &Explanation) -> bool {
///     matches!(explanation.outcome, Outcome::Failing { .. } | Outcome::Parked { .. })
/// }
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The consumer.
    #[serde(flatten, serialize_with = "consumer_and_version")]
    pub consumer: ConsumerId,
    /// The position that was asked about.
    pub position: i64,
    /// The event there.
    pub event: Option<ExplainedEvent>,
    /// The outcome of the event.
    pub outcome: Outcome,
    /// Whether a version of the consumer has handled or skipped it, so that it is a replay when it is
    /// handed over next.
    pub is_replay: bool,
    /// The checkpoint of the segment that the event belongs to; `None` if no worker has run the consumer.
    pub checkpoint: Option<i64>,
    /// The handlers that take it, where the consumer is declared in this program with `#[consumer]`.
    pub handlers: Vec<HandlerSite>,
    /// Whether the consumer is declared in this program with `#[consumer]`, and no handler of it takes the event.
    pub is_without_handler: bool,
}

impl Explanation {
    /// The outcome in words, with the consumer in the commands that help.
    #[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
    pub(crate) fn outcome_text(&self) -> String {
        match &self.outcome {
            Outcome::WaitingForRelease { event } => {
                let waits = waits_for_release(&on_command_line(&self.consumer), event);
                format!("not handled yet: the consumer {waits}")
            }
            Outcome::Handled if self.is_without_handler => "passed over: no handler of this program takes it, so it was handled only if another release had one for it".to_owned(),
            outcome => outcome.to_string(),
        }
    }

    /// The commands that help with the event.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    pub(crate) fn ways_past(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Failing {
                is_stopped: true, ..
            } => Some(ways_on(&self.consumer, Some(self.position))),
            Outcome::Parked { .. } => Some(ways_out_of_parking(&self.consumer, self.position)),
            _ => None,
        }
    }
}

/// The event of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExplainedEvent {
    /// The aggregate type.
    pub aggregate_type: String,
    /// The aggregate id.
    pub aggregate_id: String,
    /// The event type; empty if the event cannot be decoded.
    pub event_type: String,
    /// The version of the event type.
    pub event_version: i32,
}

/// A handler in the source of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HandlerSite {
    /// The method.
    pub method: &'static str,
    /// The file.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
}

/// The outcome of an event; part of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The log has no event at the position.
    NoEvent {
        /// Whether none can appear there any more.
        is_settled: bool,
    },
    /// Its aggregate type is not in the consumer's scope.
    OutOfScope,
    /// It has been handled, or skipped: by the error policy, by an operator, or since the consumer starts from
    /// now.
    Handled,
    /// The checkpoint passed it before its aggregate type came into the scope, so that no handler was given
    /// it.
    PassedOver,
    /// It is parked.
    Parked {
        /// Whether it failed itself; otherwise it waits behind an earlier event of its aggregate.
        has_failed: bool,
        /// The number of failed attempts.
        attempts: u32,
        /// The last error and its causes.
        error: Option<String>,
    },
    /// It is the event at which the consumer retries or has stopped.
    Failing {
        /// Whether the consumer has stopped.
        is_stopped: bool,
        /// The number of failed attempts.
        attempts: u32,
        /// The last error and its causes.
        error: Option<String>,
    },
    /// It has yet to be handled, and the consumer waits before it, or at an earlier event, for a release that
    /// knows that event.
    WaitingForRelease {
        /// The event that no running release knows.
        event: UnknownEvent,
    },
    /// It has not been handled, and the consumer is held back.
    HeldBack {
        /// Why, and the commands that end it.
        reason: String,
    },
    /// It has yet to be handled.
    Pending {
        /// Whether the frontier has reached it; otherwise an open transaction holds it back.
        is_settled: bool,
        /// Whether the consumer runs; otherwise it is paused, or stopped at an earlier event.
        is_running: bool,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEvent { is_settled: true } => {
                f.write_str("no event: none has this position, or it was deleted")
            }
            Self::NoEvent { is_settled: false } => {
                f.write_str("no event yet: the log is not settled up to this position")
            }
            Self::OutOfScope => f.write_str("not handled: its aggregate type is not in the scope"),
            Self::Handled => f.write_str(
                "handled, or skipped by the error policy, an operator or `start_from = \"now\"` (a skip is only recorded in the log of its worker)",
            ),
            Self::PassedOver => f.write_str(
                "not handled: its aggregate type came into the scope after the checkpoint had passed it; `rebuild` handles it",
            ),
            Self::Parked {
                has_failed: false, ..
            } => f.write_str("parked behind an earlier event of its aggregate"),
            Self::Parked {
                attempts, error, ..
            } => {
                let times = count((*attempts).into(), "time");
                write!(f, "parked (failed {times}): {}", or_unknown(error.as_ref()))
            }
            Self::Failing {
                is_stopped,
                attempts,
                error,
            } => {
                let state = if *is_stopped {
                    "the consumer stopped at it"
                } else {
                    "the consumer retries it"
                };
                let times = count((*attempts).into(), "time");
                write!(
                    f,
                    "{state} (failed {times}): {}",
                    or_unknown(error.as_ref())
                )
            }
            Self::WaitingForRelease { event } => write!(
                f,
                "not handled yet: the consumer {}",
                waits_for_release("NAME", event)
            ),
            Self::HeldBack { reason } => write!(f, "not handled: the consumer is {reason}"),
            Self::Pending {
                is_settled: false, ..
            } => f.write_str("not handled yet: an open transaction blocks the frontier before it"),
            Self::Pending {
                is_running: false, ..
            } => f.write_str("not handled yet: the consumer is paused, or stopped before it"),
            Self::Pending { .. } => f.write_str("not handled yet"),
        }
    }
}

fn or_unknown(error: Option<&String>) -> &str {
    error.map_or("for an unknown reason", String::as_str)
}

impl<DB: Backend> Admin<DB> {
    /// Explains what happened to one event in a consumer: whether it is in scope, handled, parked, failing
    /// or yet to be handled, whether it is a replay, and which handler takes it.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| { use consumer::__doc::Users;
    /// use consumer::Worker;
    /// use consumer::admin::Outcome;
    ///
    /// let admin = Worker::builder(store.clone()).consumer(Users).admin()?;
    /// let before = admin.explain("users", 1).await?;
    /// assert_eq!(before.outcome, Outcome::Pending { is_settled: true, is_running: true });
    ///
    /// Worker::builder(store).consumer(Users).build()?.run_once().await?;
    /// let after = admin.explain("users", 1).await?;
    /// assert_eq!((after.outcome, after.is_replay), (Outcome::Handled, true));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If there is no such consumer, or the database fails.
    pub async fn explain(
        &self,
        consumer: impl Into<Target>,
        position: i64,
    ) -> Result<Explanation, AdminError> {
        let consumer = self.find_or_declared(consumer.into()).await?;
        let settled = self.frontier_or_problem().await?.settled;
        let rows = self.rows_of(&consumer).await?;
        let mut tx = self.read().await?;
        let event = self.event(&mut tx, position).await?;
        let mut explanation = Explanation {
            position,
            event: None,
            outcome: Outcome::NoEvent {
                is_settled: position <= settled,
            },
            is_replay: false,
            checkpoint: rows.iter().map(|row| row.checkpoint.position).min(),
            handlers: Vec::new(),
            is_without_handler: false,
            consumer: consumer.clone(),
        };
        let Some(event) = event else {
            return Ok(explanation);
        };
        let event = readable_event(&event);
        let slice = i32::from(aggregate_slice(&event.aggregate_id));
        let row = rows.iter().map(|row| &row.checkpoint).find(|row| {
            let slices = row.key.slice_from..row.slice_to;
            slices.contains(&slice)
        });
        let tables = self.tables().await?;
        let ledger = DB::ledger(
            &tables.checkpoints,
            &mut tx,
            &consumer,
            position - 1,
            slice..slice + 1,
        );
        explanation.is_replay = ledger.await?.has(event);
        let parked = DB::parked_after(&tables.sql, &mut tx, &consumer, position - 1, 1).await?;
        drop(tx);
        let parked = parked.into_iter().find(|row| row.position == position);
        let situation = Situation {
            event,
            row,
            parked: parked.map(ParkedEvent::from),
            is_settled: position <= settled,
            is_handled: explanation.is_replay,
            held_back: self.held_back().await?.remove(&consumer),
        };
        explanation.outcome = situation.outcome(&self.scope_of_one(&consumer, row));
        explanation.checkpoint = row.map(|row| row.position);
        let takers = match explanation.outcome {
            Outcome::OutOfScope => None,
            _ => handlers(&consumer, event),
        };
        explanation.is_without_handler = takers.as_ref().is_some_and(Vec::is_empty);
        explanation.handlers = takers.unwrap_or_default();
        explanation.event = Some(ExplainedEvent {
            aggregate_type: event.aggregate_type.to_string(),
            aggregate_id: event.aggregate_id.clone(),
            event_type: event.event_type.to_string(),
            event_version: event.event_version,
        });
        Ok(explanation)
    }

    /// Finds the consumer that a command names, also if no worker has run it.
    async fn find_or_declared(&self, target: Target) -> Result<ConsumerId, AdminError> {
        match self.find(target).await {
            Err(AdminError::NeverRan { consumer } | AdminError::NotTakenOver { consumer, .. }) => {
                Ok(consumer)
            }
            found => found,
        }
    }

    /// The scope of a row, or that of the code if there is none.
    fn scope_of_one(&self, consumer: &ConsumerId, row: Option<&Checkpoint>) -> Vec<String> {
        if let Some(row) = row {
            return scope_of(&row.scope);
        }
        let mut code = self.code.iter().map(|one| &one.declaration);
        let declaration = code.find(|one| declared_id(one) == *consumer);
        let scope = declaration.map(|one| one.scope.iter().map(ToString::to_string));
        scope.map(Iterator::collect).unwrap_or_default()
    }
}

/// An event and the segment that it belongs to.
struct Situation<'a> {
    event: &'a PersistedEvent,
    row: Option<&'a Checkpoint>,
    parked: Option<ParkedEvent>,
    is_settled: bool,
    is_handled: bool,
    held_back: Option<HeldBack>,
}

impl Situation<'_> {
    fn outcome(mut self, scope: &[String]) -> Outcome {
        if let Some(parked) = self.parked.take() {
            return Outcome::Parked {
                has_failed: parked.has_failed,
                attempts: parked.attempts,
                error: parked.error,
            };
        }
        if !scope.is_empty()
            && !scope
                .iter()
                .any(|kind| **kind == *self.event.aggregate_type)
        {
            return Outcome::OutOfScope;
        }
        let position = self.event.global_position;
        match self.row {
            Some(row) if position <= row.position && self.is_handled => Outcome::Handled,
            Some(row) if position <= row.position => Outcome::PassedOver,
            Some(row) if row.has_failure_at(position) => Outcome::Failing {
                is_stopped: row.state == State::Stopped,
                attempts: row.attempts,
                error: row.error.clone(),
            },
            row => self.pending(row),
        }
    }

    /// Why the event has yet to be handled.
    fn pending(&self, row: Option<&Checkpoint>) -> Outcome {
        if let Some(held_back) = &self.held_back {
            return Outcome::HeldBack {
                reason: held_back.to_string(),
            };
        }
        let waits_before = |event: &&UnknownEvent| event.position <= self.event.global_position;
        match row.and_then(waiting_for).filter(waits_before) {
            Some(event) => Outcome::WaitingForRelease {
                event: event.clone(),
            },
            None => Outcome::Pending {
                is_settled: self.is_settled,
                is_running: row.is_none_or(|row| row.state == State::Running),
            },
        }
    }
}

/// The handlers that take an event; `None` if the consumer is not declared in this program.
fn handlers(consumer: &ConsumerId, event: &PersistedEvent) -> Option<Vec<HandlerSite>> {
    let entry = declared(&consumer.name, consumer.version)?;
    let takers = entry.knowledge.takers(event.format());
    Some(takers.into_iter().map(HandlerSite::from).collect())
}

impl From<&HandlerShape> for HandlerSite {
    fn from(handler: &HandlerShape) -> Self {
        Self {
            method: handler.method,
            file: handler.file,
            line: handler.line,
        }
    }
}
