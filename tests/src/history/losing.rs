//! An event that is deleted although a consumer is yet to handle it, and later restored.

use consumer::{OnError, aggregate_slice};

use super::backend::HistoryBackend;
use super::execution::{Execution, has_to_begin, timeout};
use super::model::{Id, Row, Verdict, fits};
use super::step::{Append, Release, Script};
use crate::Running;

/// What happens while the event is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    /// A worker starts.
    Start,
    /// A worker starts, and another one of another release.
    StartTwice,
    /// An operator resumes the consumer.
    Resume,
    /// A worker divides the rows.
    Split,
    /// The event is deleted beside a worker that waits before it.
    Beside,
}

/// An event that a consumer has yet to handle, as its row knows.
struct Next {
    id: Id,
    position: i64,
    slice: u16,
    release: Release,
    knows: bool,
}

impl<DB: HistoryBackend> Execution<'_, DB> {
    /// Deletes the event at which a row has stopped or waits, lets its consumer go on, which must stop before it,
    /// and restores it. No other consumer runs, as they may not know of the event.
    pub(super) async fn lose(&mut self, which: usize) -> Verdict {
        if self.halted().is_empty() {
            let script = [Script::Fail, Script::New(2)][which % 2];
            self.append(Append::Plain, which % 6, &[script]).await?;
            let seen = self.look().await?;
            self.model.observe(seen)?;
            self.run().await?;
        }
        let halted = self.halted();
        let Some(next) = halted.get(which % halted.len().max(1)) else {
            return Ok(());
        };
        let meanwhile = match which % 5 {
            0 => Meanwhile::Start,
            1 => Meanwhile::StartTwice,
            2 => Meanwhile::Resume,
            3 => Meanwhile::Split,
            _ if next.knows => Meanwhile::Start,
            _ => Meanwhile::Beside,
        };
        let mut release = next.release.clone();
        if meanwhile == Meanwhile::Split {
            release.segments *= 2;
        }
        let code = [(next.id.0, release)];
        let mut work = self.begin(&code, None);
        self.database
            .execute("CREATE TABLE history_deleted AS SELECT * FROM events WHERE 1 = 0")
            .await;
        if meanwhile == Meanwhile::Beside {
            self.lose_beside(next, &code).await?;
        } else {
            self.delete(next).await;
            if meanwhile == Meanwhile::Resume {
                self.resume(Some(next.id)).await?;
            }
            self.run_alone(&code).await?;
            if meanwhile == Meanwhile::StartTwice {
                self.count += 1;
                self.run_alone(&code).await?;
            }
        }
        let rows = self.rows().await;
        self.database
            .execute("INSERT INTO events SELECT * FROM history_deleted; DROP TABLE history_deleted")
            .await;
        next.is_missed_by(&rows)?;
        self.model.lose(next.id, next.position);
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)
    }

    /// The events before which rows of consumers that can run are halted.
    fn halted(&self) -> Vec<Next> {
        let seen = self.model.seen();
        let code = self.code();
        let next = |row: &Row| {
            let position = row.halted_at()?;
            let event = seen.log.get(&position)?;
            let slice = aggregate_slice(&event.aggregate);
            let mut code = code.iter();
            let (_, release) = code.find(|(name, one)| (*name, one.version) == row.id)?;
            let is_due = row.slices.contains(&slice) && row.contains(&event.kind);
            // A policy that skips does so with a deleted event.
            let stops = release.on_error != OnError::Skip && fits(release, row);
            (is_due && stops).then(|| Next {
                id: row.id,
                position,
                slice,
                release: release.clone(),
                knows: release.knows(event.script),
            })
        };
        // Transactions that are open may fill gaps, which no run waits for.
        let rows = seen.rows.iter().filter(|_| self.writers.is_empty());
        rows.filter_map(next).collect()
    }

    async fn delete(&self, next: &Next) {
        let position = next.position;
        let sql = format!(
            "INSERT INTO history_deleted SELECT * FROM events WHERE global_position = {position};
             DELETE FROM events WHERE global_position = {position}"
        );
        self.database.execute(&sql).await;
    }

    /// Runs a worker with one consumer to its end.
    async fn run_alone(&self, code: &[(&'static str, Release)]) -> Verdict {
        let builder = self.builder(self.database.store.clone(), code);
        self.run_to_the_end(builder).await
    }

    /// Deletes the event beside a worker that waits for another release before it.
    async fn lose_beside(&self, next: &Next, code: &[(&'static str, Release)]) -> Verdict {
        let worker = Running::start(self.builder(self.database.store.clone(), code));
        let began = std::time::Instant::now();
        let mut is_deleted = false;
        loop {
            if !is_deleted && !has_to_begin(&worker) {
                self.delete(next).await;
                is_deleted = true;
            }
            let rows = self.rows().await;
            let row = next.row(&rows);
            if is_deleted && row.is_none_or(|row| row.state == "stopped" || next.is_passed(row)) {
                break;
            }
            if began.elapsed() > timeout() {
                let state = worker.consumers();
                return Err(format!(
                    "stuck: event {} is deleted: {state:?}",
                    next.position
                ));
            }
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        worker.stop().await;
        Ok(())
    }
}

impl Next {
    /// The row that is to handle it.
    fn row<'r>(&self, rows: &'r [Row]) -> Option<&'r Row> {
        let mut rows = rows.iter().filter(|row| row.id == self.id);
        rows.find(|row| row.slices.contains(&self.slice))
    }

    fn is_passed(&self, row: &Row) -> bool {
        row.position >= self.position
    }

    /// Checks that its row has stopped before it.
    fn is_missed_by(&self, rows: &[Row]) -> Verdict {
        let row = self.row(rows);
        let has_stopped = |row: &Row| {
            let is_there = row.state == "stopped" && row.halted_at() == Some(self.position);
            is_there && !self.is_passed(row)
        };
        if row.is_some_and(has_stopped) {
            return Ok(());
        }
        Err(format!(
            "event {} was deleted before {:?} had handled it, which does not stop there: {row:?}",
            self.position, self.id
        ))
    }
}
