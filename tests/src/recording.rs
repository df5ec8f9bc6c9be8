//! Consumers that record what they are given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use consumer::PersistedEvent;
use tokio::sync::Semaphore;

use crate::{TestConsumer, TestDatabase, consumer};

/// The payloads that a consumer was given, the last one of each event; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Payloads(Arc<Mutex<BTreeMap<i64, String>>>);

impl Payloads {
    fn record(&self, position: i64, payload: &str) {
        let mut payloads = self.0.lock().expect("no panic in between");
        payloads.insert(position, payload.to_owned());
    }

    /// In the order of the log.
    pub fn seen(&self) -> Vec<String> {
        self.by_position().into_values().collect()
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.0.lock().expect("no panic in between").clear();
    }

    /// With their positions.
    pub fn by_position(&self) -> BTreeMap<i64, String> {
        self.0.lock().expect("no panic in between").clone()
    }
}

/// A consumer, and the events that it has seen.
pub fn watching<DB: TestDatabase>(
    name: &str,
) -> (TestConsumer<DB>, Arc<Mutex<Vec<PersistedEvent>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let consumer = consumer(name, move |_, _, event| {
        note.lock()
            .expect("no panic in between")
            .push(event.clone());
        Box::pin(async { Ok(()) })
    });
    (consumer, seen)
}

/// A consumer that records payloads, makes each event wait for a permit, and fails on the payload that is
/// `broken`, quoting it.
pub fn recording_at_gate<DB: TestDatabase>(
    name: &str,
    gate: &Arc<Semaphore>,
    broken: Option<&'static str>,
) -> (TestConsumer<DB>, Payloads) {
    let payloads = Payloads::default();
    let (given, gate) = (payloads.clone(), Arc::clone(gate));
    let recording = consumer(name, move |_, _, event| {
        let (given, gate) = (given.clone(), Arc::clone(&gate));
        let payload = String::from_utf8_lossy(&event.payload).into_owned();
        Box::pin(async move {
            given.record(event.global_position, &payload);
            gate.acquire().await?.forget();
            if Some(payload.as_str()) == broken {
                return Err(format!("cannot handle {payload}").into());
            }
            Ok(())
        })
    });
    (recording, payloads)
}
