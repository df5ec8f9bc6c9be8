//! States, lags and times in words.

use std::time::Duration;

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use crate::admin::problems::problems_besides_failures;
use crate::admin::text::{duration, number};
use crate::admin::{ConsumerState, ConsumerStatus, Lag, SegmentStatus, WorkerStatus};
use crate::worker::Tone;

/// The class of a state, which decides its colour.
pub(super) fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "ok",
        Tone::Neutral => "info",
        Tone::Doubtful => "warn",
        Tone::Bad => "bad",
    }
}

/// A number of events, or what is known of it.
pub(super) fn events(lag: Lag, position: Option<i64>, up_to: i64) -> String {
    if lag.is_more {
        // No more events than positions.
        return format!("≤ {}", number(up_to - position.unwrap_or(0)));
    }
    number(lag.events)
}

/// A duration, or a dash.
pub(super) fn or_dash(time: Option<Duration>) -> String {
    time.map_or_else(|| "–".to_owned(), duration)
}

/// How long ago something was.
pub(super) fn ago(time: Option<Duration>) -> String {
    match time {
        None => "never".to_owned(),
        Some(time) if time < Duration::from_secs(1) => "just now".to_owned(),
        Some(time) => format!("{} ago", duration(time)),
    }
}

/// That a batch is in progress, and how long it has taken as far as that is known.
pub(super) fn in_a_batch(time: Option<Duration>) -> String {
    time.map_or_else(
        || "in a batch now".to_owned(),
        |time| format!("in a batch for {}", duration(time)),
    )
}

/// When a segment was saved last, and whether a batch of it is in progress.
pub(super) fn last_save(segment: &SegmentStatus) -> Markup {
    html! {
        (ago(segment.saved_ago))
        @if segment.is_claimed == Some(true) { ", " (in_a_batch(segment.claimed_for)) }
    }
}

/// A time of the clock.
pub(super) fn clock(time: DateTime<Utc>) -> String {
    time.format("%H:%M:%S UTC").to_string()
}

/// A date and time.
pub(super) fn date(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}

/// A size.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss)] // a size to read
    let mut size = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if size < 1_000.0 {
            break;
        }
        size /= 1_000.0;
        unit = next;
    }
    format!("{size:.1} {unit}")
}

/// The problem of a consumer, in one line; `None` if no one has to act.
pub(super) fn problem(one: &ConsumerStatus) -> Option<String> {
    if let Some(failing) = &one.failing {
        let first = failing.error.lines().next().unwrap_or_default();
        let position = failing
            .position
            .map(|position| format!("event {}, ", number(position)));
        let last = ago(Some(failing.failed_ago));
        return Some(format!("{}{last}: {first}", position.unwrap_or_default()));
    }
    match one.state {
        ConsumerState::Stopped { .. } => Some(String::new()),
        ConsumerState::Paused | ConsumerState::Detached => one.state.reason(),
        _ => problems_besides_failures(one)
            .next()
            .map(|problem| problem.text().to_owned()),
    }
}

/// A message, with what it has between backticks as code.
pub(super) fn prose(message: &str) -> Markup {
    let parts: Vec<&str> = message.split('`').collect();
    // Without a second one for each, they are those of a text that the message quotes.
    if parts.len().is_multiple_of(2) {
        return html! { bdi { (message) } };
    }
    html! {
        @for (index, part) in parts.iter().enumerate() {
            @if index.is_multiple_of(2) { bdi { (part) } } @else { code { bdi { (part) } } }
        }
    }
}

/// A process, as operators look for it.
pub(super) fn process(worker: &WorkerStatus) -> String {
    format!("{} on {}", worker.pid, worker.host)
}

#[cfg(test)]
mod tests {
    use super::{bytes, prose};

    #[test]
    fn code_in_a_message_is_marked_and_nothing_is_markup() {
        let text = prose("run `a <b>`, or `c`").into_string();
        assert_eq!(
            text,
            "<bdi>run </bdi><code><bdi>a &lt;b&gt;</bdi></code><bdi>, or </bdi><code><bdi>c</bdi></code><bdi></bdi>"
        );
        assert_eq!(prose("a ` b").into_string(), "<bdi>a ` b</bdi>");
    }

    #[test]
    fn sizes_have_a_unit_that_fits() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(10_485_760), "10.5 MB");
        assert_eq!(bytes(1_000), "1.0 kB");
    }
}
