//! What appends events: the store, callers' transactions, and transactions beside the worker.

use std::time::{Duration, Instant};

use consumer::{ExpectedVersion, NewEvent};
use sqlx::Connection as _;

use super::backend::HistoryBackend;
use super::execution::{Execution, timeout};
use super::model::Verdict;
use super::scripted::{NEW_TYPE, Scripted};
use super::step::{Append, End, Script};

/// A transaction beside the worker.
pub(super) enum Writer<DB: HistoryBackend> {
    Open(DB::Connection, Vec<i64>),
    Prepared(String, Vec<i64>),
}

impl<DB: HistoryBackend> Writer<DB> {
    pub(super) fn positions(&self) -> &[i64] {
        match self {
            Self::Open(_, positions) | Self::Prepared(_, positions) => positions,
        }
    }
}

impl<DB: HistoryBackend> Execution<'_, DB> {
    pub(super) async fn append(
        &mut self,
        how: Append,
        aggregate: usize,
        scripts: &[Script],
    ) -> Verdict {
        let events: Vec<NewEvent> = scripts
            .iter()
            .map(|script| new_event(how == Append::Typed, aggregate, *script))
            .collect();
        let store = self.database.store.clone();
        if scripts.contains(&Script::Unreadable) {
            return self
                .append_unreadable(&events, scripts)
                .await
                .map_err(|error| error.to_string());
        }
        match how {
            Append::Plain | Append::Typed => {
                let stored = store.append(ExpectedVersion::Any, &events).await;
                let stored = stored.map_err(|error| format!("an append failed: {error}"))?;
                self.promised
                    .extend(stored.iter().map(|event| event.global_position));
            }
            Append::Committed | Append::RolledBack | Append::Savepoint => {
                self.append_within(how, &events)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Append::Dropped(polls) => {
                crate::dropped_after(polls, store.append(ExpectedVersion::Any, &events)).await;
                return self.nothing_is_left_open().await;
            }
        }
        Ok(())
    }

    async fn append_unreadable(
        &mut self,
        events: &[NewEvent],
        scripts: &[Script],
    ) -> Result<(), consumer::StoreError> {
        let store = self.database.store.clone();
        let mut tx = store.begin().await?;
        let stored = store
            .append_in(&mut tx, ExpectedVersion::Any, events)
            .await?;
        let positions: Vec<i64> = stored.iter().map(|event| event.global_position).collect();
        spoil::<DB>(&mut tx, &positions, scripts).await?;
        tx.commit().await?;
        self.promised.extend(positions);
        Ok(())
    }

    async fn append_within(
        &mut self,
        how: Append,
        events: &[NewEvent],
    ) -> Result<(), consumer::StoreError> {
        let store = self.database.store.clone();
        let mut tx = store.begin().await?;
        if how == Append::Savepoint {
            let mut nested = tx.begin().await?;
            let void = store
                .append_in(&mut nested, ExpectedVersion::Any, events)
                .await?;
            nested.rollback().await?;
            self.void
                .extend(void.iter().map(|event| event.global_position));
        }
        let stored = store
            .append_in(&mut tx, ExpectedVersion::Any, events)
            .await?;
        let positions = stored.iter().map(|event| event.global_position);
        if how == Append::RolledBack {
            self.void.extend(positions);
            tx.rollback().await?;
        } else {
            // SQLite gives a position that was rolled back out again.
            let positions: Vec<i64> = positions.collect();
            tx.commit().await?;
            self.promised.extend(positions);
        }
        Ok(())
    }

    /// Checks that a dropped future of the store left nothing behind in the pool.
    async fn nothing_is_left_open(&self) -> Verdict {
        let pool = &self.database.pool;
        let began = Instant::now();
        while pool.num_idle() < pool.size() as usize {
            if began.elapsed() > timeout() {
                return Err("a dropped append keeps a connection of the pool".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if DB::is_left_open(pool).await {
            return Err("a dropped append left a transaction open in the pool".to_owned());
        }
        Ok(())
    }

    pub(super) async fn open(&mut self, scripts: &[Script]) {
        const MOST: usize = 3;
        if self.writers.len() >= MOST {
            return;
        }
        let mut connection = DB::Connection::connect(&self.database.url)
            .await
            .expect("connect");
        DB::execute_sql(&mut connection, "BEGIN")
            .await
            .expect("begin");
        // An aggregate of its own: others would wait for its lock.
        let aggregate = 100 + self.count;
        let events: Vec<NewEvent> = scripts
            .iter()
            .map(|script| new_event(false, aggregate, *script))
            .collect();
        let store = self.database.store.clone();
        let stored = store.append_in(&mut connection, ExpectedVersion::Any, &events);
        let stored = stored.await.expect("append");
        let positions: Vec<i64> = stored.iter().map(|event| event.global_position).collect();
        let spoilt = spoil::<DB>(&mut connection, &positions, scripts);
        spoilt.await.expect("spoil");
        self.writers.push(Writer::Open(connection, positions));
    }

    pub(super) async fn end(&mut self, end: End, which: usize) {
        if self.writers.is_empty() {
            return;
        }
        let writer = self.writers.remove(which % self.writers.len());
        let positions = writer.positions().to_vec();
        match (writer, end) {
            (Writer::Open(mut connection, _), End::Prepare) => {
                let name = format!("history-{}", self.database.url.len() + self.count);
                let sql = format!("PREPARE TRANSACTION '{name}'");
                DB::execute_sql(&mut connection, &sql)
                    .await
                    .expect("prepare");
                self.writers.push(Writer::Prepared(name, positions));
                return;
            }
            (Writer::Open(mut connection, _), _) => {
                let sql = if end == End::RollBack {
                    "ROLLBACK"
                } else {
                    "COMMIT"
                };
                DB::execute_sql(&mut connection, sql).await.expect("end");
            }
            (Writer::Prepared(name, _), _) => {
                let what = if end == End::RollBack {
                    "ROLLBACK"
                } else {
                    "COMMIT"
                };
                self.database
                    .execute(&format!("{what} PREPARED '{name}'"))
                    .await;
            }
        }
        if end == End::RollBack {
            self.void.extend(positions);
        } else {
            self.promised.extend(positions);
        }
    }

    /// Forgets the transactions that ended with the server; prepared ones survive.
    pub(super) fn lose_writers(&mut self) {
        let all = std::mem::take(&mut self.writers);
        let (prepared, open): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|writer| matches!(writer, Writer::Prepared(..)));
        self.writers = prepared;
        for writer in open {
            self.void.extend(writer.positions());
        }
    }
}

/// Makes those of some new events unreadable that are to be.
async fn spoil<DB: HistoryBackend>(
    connection: &mut DB::Connection,
    positions: &[i64],
    scripts: &[Script],
) -> Result<(), sqlx::Error> {
    for (position, script) in positions.iter().zip(scripts) {
        if *script == Script::Unreadable {
            let spoil = format!("{} WHERE global_position = {position}", DB::SPOIL);
            DB::execute_sql(connection, &spoil).await?;
        }
    }
    Ok(())
}

fn new_event(typed: bool, aggregate: usize, script: Script) -> NewEvent {
    let scripted = Scripted { script };
    let kind = if aggregate.is_multiple_of(2) {
        "Account"
    } else {
        "Order"
    };
    let id = format!("a-{aggregate}");
    let payload = serde_json::to_string(&scripted).expect("JSON");
    match script {
        Script::New(version) => NewEvent::new(kind, id, NEW_TYPE, payload).event_version(version),
        _ if typed && kind == "Account" => NewEvent::typed(&scripted).expect("JSON").of(id),
        _ => NewEvent::new(kind, id, "Scripted", payload),
    }
}
