//! Keeps what the library logs.

use std::fmt::{Debug, Write as _};
use std::sync::{LazyLock, Mutex};

use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber as _;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

static LINES: LazyLock<&'static Mutex<Vec<String>>> = LazyLock::new(|| {
    let lines: &'static Mutex<Vec<String>> = Box::leak(Box::default());
    let registry = tracing_subscriber::registry::Registry::default();
    tracing::subscriber::set_global_default(registry.with(Keep(lines)))
        .expect("the only subscriber of this test binary");
    lines
});

/// Runs a future and returns what it logs itself, without its tasks.
pub async fn logging<F: Future>(future: F) -> (F::Output, Vec<String>) {
    let lines: &'static Mutex<Vec<String>> = Box::leak(Box::default());
    let registry = tracing_subscriber::registry::Registry::default();
    let output = future.with_subscriber(registry.with(Keep(lines))).await;
    let lines = lines.lock().expect("no panic in between").clone();
    (output, lines)
}

struct Keep(&'static Mutex<Vec<String>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("no panic in between").push(line.0);
    }
}

/// Keeps each line from now on, of all tests of the binary.
pub fn keep_log() {
    LazyLock::force(&LINES);
}

/// The lines so far that contain all of these words.
#[must_use]
pub fn logged(words: &[&str]) -> Vec<String> {
    let lines = LINES.lock().expect("no panic in between");
    let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
    lines.iter().filter(has_all).cloned().collect()
}
