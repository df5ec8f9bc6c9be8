//! The problems of a consumer and their remedies, in words.

use std::fmt::Write as _;

use super::status::ConsumerStatus;
use super::text::{count, duration, events_were, number, one_line};
use crate::backend::{ConsumerId, UnknownEvent};
use crate::worker::ConsumerState;

/// A problem of a consumer, in one line.
pub(crate) enum Problem {
    /// What the consumer does, as it follows its name.
    Does(String),
    /// A sentence of its own.
    Is(String),
}

impl Problem {
    /// The problem, where the consumer is named beside it.
    #[cfg_attr(not(feature = "dashboard"), allow(dead_code))]
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Does(text) | Self::Is(text) => text,
        }
    }

    /// The problem with the name of the consumer before it.
    pub(crate) fn of(&self, consumer: &ConsumerId) -> String {
        match self {
            Self::Does(text) => format!("{consumer} {text}"),
            Self::Is(text) => format!("{consumer}: {text}"),
        }
    }
}

/// The problems of a consumer and their remedies.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) fn problems(one: &ConsumerStatus) -> impl Iterator<Item = String> {
    let problem = problem_of_state(one).or_else(|| failure(one));
    let all = [problem, remedy(one), no_worker(one)];
    all.into_iter().flatten().map(|problem| problem.of(&one.id))
}

/// The same without the event that it fails to handle.
#[cfg_attr(not(feature = "dashboard"), allow(dead_code))]
pub(crate) fn problems_besides_failures(one: &ConsumerStatus) -> impl Iterator<Item = Problem> {
    problem_of_state(one).into_iter().chain(no_worker(one))
}

fn no_worker(one: &ConsumerStatus) -> Option<Problem> {
    let ConsumerState::NoWorker {
        waited,
        may_be_busy,
    } = one.state
    else {
        return None;
    };
    let waited = duration(waited);
    Some(Problem::Is(if may_be_busy {
        format!(
            "events have waited {waited} and no batch has ended for as long; start a worker that runs this consumer, unless one is in a batch that takes so long"
        )
    } else {
        format!(
            "events have waited {waited} and no worker has claimed them; start a worker that runs this consumer"
        )
    }))
}

fn problem_of_state(one: &ConsumerStatus) -> Option<Problem> {
    let reason = one.state.reason().unwrap_or_default();
    if let ConsumerState::ScopeChanged { .. } = &one.state {
        let name = on_command_line(&one.id);
        return Some(Problem::Is(format!(
            "{reason}; run `rebuild {name}`, or accept the new scope with `accept-scope {name}`"
        )));
    }
    if let ConsumerState::WaitingForRelease { event } = &one.state {
        let waits = waits_for_release(&on_command_line(&one.id), event);
        return Some(Problem::Does(one_line(&waits)));
    }
    if let Some(reason) = &one.held_back {
        return Some(Problem::Does(format!("is {reason}")));
    }
    if let ConsumerState::OtherLog { .. } = &one.state {
        return Some(Problem::Is(format!(
            "{reason}; give one of them another name"
        )));
    }
    if let (Some(missing), None) = (&one.missing, &one.failing) {
        let events = events_were(missing);
        return Some(Problem::Is(format!(
            "{events} deleted from the log before it had handled them; restore them before the consumer reaches that position"
        )));
    }
    None
}

/// Describes the event that a consumer waits before, and the remedies, with its name as commands take it.
pub(super) fn waits_for_release(name: &str, event: &UnknownEvent) -> String {
    let position = event.position;
    format!(
        "waits for a release that knows {event}; deploy one, name its type in `ignore`, or run `park {name} {position}` or `skip {name} {position}`"
    )
}

fn failure(one: &ConsumerStatus) -> Option<Problem> {
    let failing = one.failing.as_ref()?;
    let state = match (&one.state, failing.position.map(number)) {
        (ConsumerState::Retrying { .. } | ConsumerState::NoWorker { .. }, Some(event)) => {
            format!("retries event {event}")
        }
        (state, Some(event)) => format!("{} at event {event}", state.words()),
        (state, None) => state.words(),
    };
    let again = failing.retry_in.map_or_else(String::new, |wait| {
        format!(", next attempt in {}", duration(wait))
    });
    let times = count(failing.attempts.into(), "time");
    let error = one_line(&failing.error);
    Some(Problem::Does(format!(
        "{state} (failed {times}{again}): {error}"
    )))
}

/// How a consumer that has stopped runs again.
fn remedy(one: &ConsumerStatus) -> Option<Problem> {
    let failing = one.failing.as_ref()?;
    let ConsumerState::Stopped { position, .. } = &one.state else {
        return None;
    };
    let mut text = format!("last tried {} ago", duration(failing.failed_ago));
    if let Some(release) = one.failed_releases.last() {
        let _ = write!(text, " by release {}", one_line(release));
    }
    let _ = write!(text, "; {}", ways_on(&one.id, *position));
    Some(Problem::Is(text))
}

/// The commands by which a consumer that has stopped runs again.
pub(super) fn ways_on(consumer: &ConsumerId, position: Option<i64>) -> String {
    let name = on_command_line(consumer);
    let mut text = format!("after a repair run `resume {name}`");
    if let Some(position) = position {
        let _ = write!(
            text,
            ", or run `park {name} {position}` or `skip {name} {position}`"
        );
    }
    text
}

/// The commands by which an event is no longer parked.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) fn ways_out_of_parking(consumer: &ConsumerId, position: i64) -> String {
    let name = on_command_line(consumer);
    format!(
        "after a repair run `parked retry {name} {position}`, or run `parked skip {name} {position}`"
    )
}

/// A consumer as an argument of a command.
pub(crate) fn on_command_line(consumer: &ConsumerId) -> String {
    match consumer.version {
        1 => consumer.name.to_string(),
        version => format!("{} --of-version {version}", consumer.name),
    }
}
