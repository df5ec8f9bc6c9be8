//! The problems of a consumer and their remedies, in words.

use super::status::ConsumerStatus;
use super::text::{count, duration, events_were, number};
use crate::backend::UnknownEvent;
use crate::worker::ConsumerState;

/// The problems of a consumer and their remedies.
pub(crate) fn problems(one: &ConsumerStatus) -> impl Iterator<Item = String> {
    let problem = problem_of_state(one).or_else(|| failure(one));
    problem.into_iter().chain(unattended(one))
}

/// The same without the event that it fails to handle.
#[cfg_attr(not(feature = "dashboard"), allow(dead_code))]
pub(crate) fn problems_besides_failures(one: &ConsumerStatus) -> impl Iterator<Item = String> {
    problem_of_state(one).into_iter().chain(unattended(one))
}

fn unattended(one: &ConsumerStatus) -> Option<String> {
    let time = one.unattended?;
    Some(format!(
        "{}: events have waited {} and no worker has claimed them; start a worker that runs this consumer",
        one.id(),
        duration(time)
    ))
}

fn problem_of_state(one: &ConsumerStatus) -> Option<String> {
    let consumer = one.id();
    if let ConsumerState::ScopeChanged { checkpoint, code } = &one.state {
        return Some(format!(
            "{consumer}: its checkpoint was reached with the scope [{checkpoint}], but the code has [{code}]; run `rebuild`, or accept the new scope with `accept-scope`"
        ));
    }
    if let ConsumerState::WaitingForRelease { event } = &one.state {
        return Some(format!("{consumer} {}", waits_for_release(event)));
    }
    if let Some(reason) = &one.held_back {
        return Some(format!("{consumer}: {reason}"));
    }
    if let ConsumerState::OtherLog { log } = &one.state {
        return Some(format!(
            "{consumer}: another consumer with this name reads the log `{log}` of this database; give one of them another name"
        ));
    }
    if let (Some(missing), None) = (&one.missing, &one.failing) {
        let events = events_were(missing);
        return Some(format!(
            "{consumer}: {events} deleted from the log before it had handled them; restore them before the consumer reaches that position"
        ));
    }
    None
}

/// That a consumer waits before an event, and what to do.
pub(super) fn waits_for_release(event: &UnknownEvent) -> String {
    let position = event.position;
    format!(
        "waits for a release that knows {event}; deploy one, name its type in `ignore`, or run `park` or `skip` with {position}"
    )
}

fn failure(one: &ConsumerStatus) -> Option<String> {
    let consumer = one.id();
    let failing = one.failing.as_ref()?;
    let event = failing.position.map_or_else(String::new, |position| {
        format!(" at event {}", number(position))
    });
    let again = failing.retry_in.map_or_else(String::new, |wait| {
        format!(", next attempt in {}", duration(wait))
    });
    let times = count(failing.attempts.into(), "time");
    let (state, error) = (one.state.name().replace('_', " "), &failing.error);
    Some(format!(
        "{consumer} {state}{event} (failed {times}{again}): {error}"
    ))
}
