//! The progress of a rebuild: a bar on a terminal, lines of JSON elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::console::Console;
use crate::admin::text::{count, duration, number, rate};
use crate::admin::{ConsumerId, RebuildProgress};

/// How often a terminal is redrawn.
const FRAME: Duration = Duration::from_millis(200);

/// How often a line is written without a terminal.
const LINE: Duration = Duration::from_secs(1);

/// Where the progress of a consumer's rebuild is shown.
pub(super) struct Screen<'a> {
    console: &'a Console,
    consumer: &'a ConsumerId,
    bar: Option<ProgressBar>,
}

impl<'a> Screen<'a> {
    pub(super) fn new(console: &'a Console, consumer: &'a ConsumerId) -> Self {
        Self {
            console,
            consumer,
            bar: console.is_terminal.then(|| bar(console.has_colour)),
        }
    }

    /// The time until the next look.
    pub(super) fn pause(&self) -> Duration {
        if self.bar.is_some() { FRAME } else { LINE }
    }

    pub(super) fn show(&self, progress: RebuildProgress) -> Result<(), serde_json::Error> {
        let Some(bar) = &self.bar else {
            let line = json!({
                "consumer": &*self.consumer.name,
                "version": self.consumer.version,
                "handled": progress.handled,
                "total": progress.total,
                "position": progress.position,
                "replay_to": progress.replay_to,
                "rate": progress.rate,
                "remaining_seconds": progress.remaining.map(|left| left.as_secs_f64()),
                "done": progress.is_done,
            });
            self.console.json(&serde_json::to_string(&line)?);
            return Ok(());
        };
        bar.set_length(progress.total);
        bar.set_position(progress.handled);
        let left = progress.remaining.map_or_else(
            || "no estimate yet".to_owned(),
            |left| format!("{} left", duration(left)),
        );
        let (handled, total) = (number(progress.handled), number(progress.total));
        let rate = rate(progress.rate);
        bar.set_message(format!("{handled} of {total}, {rate}, {left}"));
        Ok(())
    }

    pub(super) fn done(&self, progress: RebuildProgress) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            let handled = count(progress.handled, "event");
            let consumer = self.consumer;
            self.console
                .line(format!("{consumer}: {handled} handled again"));
        }
    }

    /// Says what to do once a version has caught up beside the active one.
    pub(super) fn suggest_activation(&self) {
        let ConsumerId { name, version } = self.consumer;
        self.console.note(format!(
            "another version is active; `activate {name} {version}` switches to this one"
        ));
    }

    /// Leaves the progress as it is, and says why.
    pub(super) fn leave(&self, reason: &str) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
        self.console.note(format!("{}: {reason}", self.consumer));
    }
}

fn bar(has_colour: bool) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = if has_colour {
        "{percent:>3} % {wide_bar:.cyan} {msg}"
    } else {
        "{percent:>3} % {wide_bar} {msg}"
    };
    // If the template could not be parsed, the default would do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}
