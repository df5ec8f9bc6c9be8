//! The state of all consumers, read once for all viewers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use crate::admin::{Admin, AdminError, ConsumerStatus, Status};
use crate::backend::{Backend, ConsumerId};
use crate::contract::chain;

/// How often the state is read while someone looks.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

/// A page says that the database does not answer, rather than not to appear.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Beyond this, the distance in positions tells enough.
const MOST_COUNTED: i64 = 10_000;

/// The rates that a sparkline has.
const RATES: usize = 60;

/// After this long without a viewer, earlier rates are not shown beside later ones.
const GAP: Duration = Duration::from_mins(1);

/// The state of all consumers at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// Counts the snapshots, from 1.
    pub(super) serial: u64,
    taken: Instant,
    /// When it was taken.
    pub(super) at: DateTime<Utc>,
    /// The state; the last one that could be read, if there is an error.
    pub(super) status: Option<Status>,
    /// Why the state could not be read.
    pub(super) error: Option<String>,
    rates: HashMap<ConsumerId, VecDeque<f64>>,
}

impl Snapshot {
    /// The recent rates of a consumer, oldest first.
    pub(super) fn rates(&self, consumer: &ConsumerId) -> Vec<f64> {
        let rates = self.rates.get(consumer);
        rates.map_or_else(Vec::new, |rates| rates.iter().copied().collect())
    }

    pub(super) fn consumers(&self) -> &[ConsumerStatus] {
        self.status.as_ref().map_or(&[], |status| &status.consumers)
    }

    pub(super) fn consumer(&self, consumer: &ConsumerId) -> Option<&ConsumerStatus> {
        let mut consumers = self.consumers().iter();
        consumers.find(|one| one.id == *consumer)
    }

    /// How long it stays the latest.
    fn remaining(&self) -> Duration {
        INTERVAL.saturating_sub(self.taken.elapsed())
    }
}

/// Takes snapshots when they are asked for, and at most one in each interval.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    latest: Mutex<Option<Arc<Snapshot>>>,
    /// Held by the one that takes the next.
    taking: tokio::sync::Mutex<()>,
}

impl Snapshots {
    /// The latest snapshot, unless it is too old.
    pub(super) async fn current<DB: Backend>(&self, admin: &Admin<DB>) -> Arc<Snapshot> {
        if let Some(fresh) = self.fresh() {
            return fresh;
        }
        let _taking = self.taking.lock().await;
        // Another request may have taken it meanwhile.
        if let Some(fresh) = self.fresh() {
            return fresh;
        }
        let before = self.latest.lock().clone();
        let snapshot = Arc::new(take(admin, before.as_deref()).await);
        *self.latest.lock() = Some(Arc::clone(&snapshot));
        snapshot
    }

    /// The next snapshot after the one of a serial number.
    pub(super) async fn next<DB: Backend>(&self, admin: &Admin<DB>, after: u64) -> Arc<Snapshot> {
        loop {
            let snapshot = self.current(admin).await;
            // Those of an earlier process may have had higher numbers.
            if snapshot.serial != after {
                return snapshot;
            }
            tokio::time::sleep(snapshot.remaining()).await;
        }
    }

    /// Makes the next page show what an action has changed.
    pub(super) fn expire(&self) {
        let mut latest = self.latest.lock();
        if let Some(snapshot) = latest.as_deref()
            && let Some(long_ago) = snapshot.taken.checked_sub(INTERVAL)
        {
            *latest = Some(Arc::new(Snapshot {
                taken: long_ago,
                ..snapshot.clone()
            }));
        }
    }

    fn fresh(&self) -> Option<Arc<Snapshot>> {
        let latest = self.latest.lock().clone()?;
        (!latest.remaining().is_zero()).then_some(latest)
    }
}

async fn take<DB: Backend>(admin: &Admin<DB>, before: Option<&Snapshot>) -> Snapshot {
    let earlier = before.and_then(|before| before.status.as_ref());
    let read = tokio::time::timeout(TIMEOUT, read(admin, earlier)).await;
    let (status, error) = match read {
        Ok(Ok(status)) => (Some(status), None),
        Ok(Err(error)) => (earlier.cloned(), Some(chain(&error).to_string())),
        Err(_) => (
            earlier.cloned(),
            Some("the database has not answered for 10 s".to_owned()),
        ),
    };
    let rates = match (&status, &error) {
        (Some(status), None) => rates(status, before),
        _ => before
            .map(|before| before.rates.clone())
            .unwrap_or_default(),
    };
    Snapshot {
        serial: before.map_or(0, |before| before.serial) + 1,
        taken: Instant::now(),
        at: Utc::now(),
        status,
        error,
        rates,
    }
}

async fn read<DB: Backend>(
    admin: &Admin<DB>,
    earlier: Option<&Status>,
) -> Result<Status, AdminError> {
    let mut status = admin.status_counting(MOST_COUNTED).await?;
    if let Some(earlier) = earlier {
        admin.add_rates(&mut status, earlier).await?;
    }
    Ok(status)
}

/// The rates of each consumer, with those of the snapshots before.
fn rates(status: &Status, before: Option<&Snapshot>) -> HashMap<ConsumerId, VecDeque<f64>> {
    let recent = before.filter(|before| before.taken.elapsed() < GAP);
    let rates = status.consumers.iter().map(|one| {
        let earlier = recent.and_then(|before| before.rates.get(&one.id));
        let mut rates = earlier.cloned().unwrap_or_default();
        rates.extend(one.rate);
        while rates.len() > RATES {
            rates.pop_front();
        }
        (one.id.clone(), rates)
    });
    rates.collect()
}
