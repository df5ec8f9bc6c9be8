//! Reads what a status of all consumers needs of the log, in one transaction and each part once.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use sqlx::Transaction;

use super::error::AdminError;
use super::lag::{Lag, millis};
use super::operator::{Admin, Tables};
use crate::backend::{Backend, Part, ReadRange, Row, position as position_of};

/// Reads the log for many consumers, most of which ask the same.
pub(super) struct LogReader<DB: Backend> {
    tables: Arc<Tables<DB>>,
    tx: Transaction<'static, DB>,
    /// Beyond this, events are not counted.
    most_counted: i64,
    lags: HashMap<(i64, i64, Vec<String>), Lag>,
    missing: HashMap<i64, Option<RangeInclusive<i64>>>,
}

impl<DB: Backend> Admin<DB> {
    /// Begins to read the log; counts at most `most_counted` events for each consumer.
    pub(super) async fn log_reader(&self, most_counted: i64) -> Result<LogReader<DB>, AdminError> {
        Ok(LogReader {
            tx: self.read().await?,
            tables: self.tables().await?,
            most_counted,
            lags: HashMap::new(),
            missing: HashMap::new(),
        })
    }
}

impl<DB: Backend> LogReader<DB> {
    /// How far a checkpoint at the beginning of a part is behind its end.
    pub(super) async fn lag(&mut self, part: Part<'_>) -> Result<Lag, AdminError> {
        if part.after >= part.up_to {
            return Ok(Lag::default());
        }
        let key = (part.after, part.up_to, part.scope.to_vec());
        if let Some(&known) = self.lags.get(&key) {
            return Ok(known);
        }
        let lag = self.read_lag(part).await?;
        self.lags.insert(key, lag);
        Ok(lag)
    }

    async fn read_lag(&mut self, part: Part<'_>) -> Result<Lag, AdminError> {
        let most = self.most_counted;
        let events = self.count(part, most.saturating_add(1)).await?;
        if events == 0 {
            return Ok(Lag::default());
        }
        let age = DB::age(&self.tables.lag, &mut self.tx, part).await?;
        Ok(Lag {
            events: u64::try_from(events.min(most)).unwrap_or(0),
            is_more: events > most,
            time: age.map(millis),
        })
    }

    /// Counts the events in a part of the log, up to a limit.
    pub(super) async fn count(&mut self, part: Part<'_>, limit: i64) -> Result<i64, AdminError> {
        if part.after >= part.up_to {
            return Ok(0);
        }
        Ok(DB::count(&self.tables.lag, &mut self.tx, part, limit).await?)
    }

    /// The other log that a consumer reads, if it does.
    pub(super) async fn other_log(&mut self, consumer: &str) -> Result<Option<String>, AdminError> {
        Ok(DB::other_log(&self.tables.checkpoints, &mut self.tx, consumer).await?)
    }

    /// The events that were deleted before one of these rows has handled them.
    pub(super) async fn missing_before(
        &mut self,
        rows: &[Row],
    ) -> Result<Option<RangeInclusive<i64>>, AdminError> {
        for pending in rows.iter().flat_map(Row::pending) {
            let missing = self.missing_from(pending).await?;
            if missing.is_some() {
                return Ok(missing);
            }
        }
        Ok(None)
    }

    /// The gap that begins at a position which had an event; `None` if it has one.
    pub(super) async fn missing_from(
        &mut self,
        position: i64,
    ) -> Result<Option<RangeInclusive<i64>>, AdminError> {
        if let Some(known) = self.missing.get(&position) {
            return Ok(known.clone());
        }
        let range = ReadRange {
            after: position - 1,
            up_to: i64::MAX,
            limit: 1,
            max_bytes: 0,
            scope: None,
        };
        let rows = self.tables.store.read_rows(&mut self.tx, range).await?;
        let last = match rows.first() {
            Some(row) => position_of(row) - 1,
            // The log has no event after it.
            None => position,
        };
        let missing = (last >= position).then_some(position..=last);
        self.missing.insert(position, missing.clone());
        Ok(missing)
    }

    /// The lowest position of the log, if it is known.
    pub(super) async fn first_position(&mut self) -> Result<Option<i64>, AdminError> {
        Ok(DB::log_state(&self.tables.lag, &mut self.tx).await?.first)
    }
}
