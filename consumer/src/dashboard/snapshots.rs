//! The state of all consumers, read once for all viewers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use crate::admin::{Admin, ConsumerStatus, Status};
use crate::backend::{Backend, ConsumerId};
use crate::contract::chain;

/// How often the state is read while someone looks.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

/// A page says that the database does not answer, rather than not to appear.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Beyond this, the distance in positions tells enough.
const MOST_COUNTED: i64 = 10_000;

/// The most events that a rate is computed from. A consumer handles fewer in an [`INTERVAL`].
const MOST_HANDLED: i64 = 200_000;

/// The rates that a sparkline has.
const RATES: usize = 60;

/// After this long without a viewer, no rate is computed from the earlier state, which would be the average of a
/// night and as expensive to count, and earlier rates are not shown beside later ones.
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
    let read = tokio::time::timeout(TIMEOUT, admin.status_counting(MOST_COUNTED)).await;
    let (status, error) = match read {
        Ok(Ok(status)) => (Some(with_rates(admin, status, earlier).await), None),
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

/// A status with the rates since an earlier one, as far as they can be counted: without them it is as new.
async fn with_rates<DB: Backend>(
    admin: &Admin<DB>,
    mut status: Status,
    earlier: Option<&Status>,
) -> Status {
    let earlier = earlier.filter(|earlier| is_recent(earlier.looked_at, status.looked_at));
    if let Some(earlier) = earlier {
        let adding = admin.add_rates(&mut status, earlier, MOST_HANDLED);
        // A database that fails shows in the next look.
        let _ = tokio::time::timeout(TIMEOUT, adding).await;
    }
    status
}

/// Whether a rate can be computed between two looks.
fn is_recent(earlier: Instant, now: Instant) -> bool {
    now.saturating_duration_since(earlier) < GAP
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

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use sqlx::Sqlite;

    use super::{GAP, MOST_COUNTED, take, with_rates};
    use crate::admin::{Admin, Status};
    use crate::{ExpectedVersion, NewEvent, SqliteEventStore};

    /// A log with an event, which the only consumer has handled between two looks.
    async fn looks() -> (Admin<Sqlite>, Status, Status) {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        let event = NewEvent::new("User", "ada", "Changed", "{}");
        let appended = store.append(ExpectedVersion::Any, &[event]).await;
        appended.unwrap();
        let write = async |sql: &'static str| {
            let written = sqlx::query(sql).execute(store.pool()).await;
            written.unwrap();
        };
        write(
            "INSERT INTO consumer_progress (consumer, version, slice_from, slice_to, position, scope)
             VALUES ('users', 1, 0, 1024, 0, '')",
        )
        .await;
        let admin = Admin::new(store.clone());
        let before = admin.status_counting(MOST_COUNTED).await.unwrap();
        write("UPDATE consumer_progress SET position = 1").await;
        let after = admin.status_counting(MOST_COUNTED).await.unwrap();
        (admin, before, after)
    }

    #[tokio::test]
    async fn no_rate_is_the_average_of_a_long_pause() {
        let (admin, before, after) = looks().await;
        let later = |status: &Status, gap| {
            let mut status = status.clone();
            status.looked_at = before.looked_at + gap;
            status
        };
        // The control: a minute ago is too long, a little less is not.
        for (gap, is_known) in [(GAP, false), (GAP / 2, true)] {
            let status = with_rates(&admin, later(&after, gap), Some(&before)).await;
            assert_eq!(status.consumers[0].rate.is_some(), is_known, "{gap:?}");
            assert_eq!(status.consumers[0].position, Some(1));
        }
    }

    #[tokio::test]
    async fn a_status_is_shown_though_its_rates_fail() {
        let (admin, before, after) = looks().await;
        admin.store().pool().close().await;
        let status = with_rates(&admin, after, Some(&before)).await;
        assert_eq!(status.consumers[0].position, Some(1));
        assert_eq!(status.consumers[0].rate, None);
        // The control: the database cannot be used.
        let snapshot = take(&admin, None).await;
        assert!(snapshot.error.is_some(), "{snapshot:?}");
    }
}
