//! Writers that make order of position differ from order of commit in every way that Postgres has,
//! and the naive reader, which loses events to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::TestDatabase;

const INSERT: &str = "
    INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
    VALUES ('Writer', $1, $2, gen_random_uuid(), 'Written', '')";

const INSERT_AT: &str = "
    INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload,
                        global_position)
    VALUES ('Writer', $1, $2, gen_random_uuid(), 'Written', '', $3)";

const COPY: &str = "
    COPY events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
    FROM STDIN";

/// A way to make order of position differ from order of commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// One insert or two, with a pause between them.
    Several,
    /// A position drawn by hand, and inserted later.
    DrawnBefore,
    /// An insert that is rolled back to a savepoint, and another.
    AfterASavepoint,
    /// Rows copied in.
    Copied,
    /// A transaction that is prepared, and ended over another connection.
    Prepared,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Several,
        Self::DrawnBefore,
        Self::AfterASavepoint,
        Self::Copied,
        Self::Prepared,
    ];

    /// The first is the most frequent.
    fn of_chance() -> Self {
        match fastrand::u8(..10) {
            0..4 => Self::Several,
            4..6 => Self::DrawnBefore,
            6..7 => Self::AfterASavepoint,
            7..8 => Self::Copied,
            _ => Self::Prepared,
        }
    }
}

/// What the writers did. A test that relies on them checks this too.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The number of committed transactions of each kind.
    pub committed: BTreeMap<Kind, u64>,
    /// The number of each kind that were rolled back.
    pub rolled_back: BTreeMap<Kind, u64>,
    /// The errors, which only a test that breaks the server may expect.
    pub errors: Vec<String>,
}

/// Writers at work, each on an aggregate of its own.
pub struct Writers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
}

impl Writers {
    /// Starts this number of writers. They pause within their transactions, for up to `longest` and
    /// mostly much shorter, roll every fifth back, and continue after any error.
    #[must_use]
    pub fn start(pool: &PgPool, count: usize, longest: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let writer = Writer {
                pool: pool.clone(),
                name: format!("w-{number}"),
                longest,
            };
            let (stop, tally) = (Arc::clone(&stop), Arc::clone(&tally));
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let kind = Kind::of_chance();
                    let written = writer.write(kind).await;
                    if tally.lock().unwrap().note(kind, &written) {
                        continue;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
        Self { tasks, stop, tally }
    }

    /// Lets each writer finish its transaction, and returns what they did.
    pub async fn stop(mut self, pool: &PgPool) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let left: Vec<String> = sqlx::query_scalar(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()",
        )
        .fetch_all(pool)
        .await
        .expect("find prepared transactions");
        for gid in left {
            end_prepared(pool, "ROLLBACK", &gid)
                .await
                .expect("roll a prepared transaction back");
        }
        self.tally.lock().unwrap().clone()
    }
}

impl Tally {
    /// Counts a transaction; whether it went as it should.
    fn note(&mut self, kind: Kind, written: &Result<Ending, sqlx::Error>) -> bool {
        let counts = match written {
            Ok(Ending::Commit) => &mut self.committed,
            Ok(Ending::Rollback) => &mut self.rolled_back,
            Err(error) => {
                self.errors.push(format!("{kind:?}: {error}"));
                return false;
            }
        };
        *counts.entry(kind).or_default() += 1;
        true
    }
}

/// The end of a transaction.
#[derive(Clone, Copy)]
enum Ending {
    Commit,
    Rollback,
}

impl Ending {
    fn of_chance() -> Self {
        if fastrand::u8(..5) == 0 {
            Self::Rollback
        } else {
            Self::Commit
        }
    }
}

struct Writer {
    pool: PgPool,
    name: String,
    longest: Duration,
}

impl Writer {
    /// One transaction, whose end chance decides on.
    async fn write(&self, kind: Kind) -> Result<Ending, sqlx::Error> {
        let gid = format!("{} of {}", self.name, self.database());
        // A crash may have come between its two phases.
        let _ = end_prepared(&self.pool, "ROLLBACK", &gid).await;
        let version: i64 = sqlx::query_scalar(
            "SELECT coalesce(max(aggregate_version), 0) + 1 FROM events
              WHERE aggregate_type = 'Writer' AND aggregate_id = $1",
        )
        .bind(&self.name)
        .fetch_one(&self.pool)
        .await?;
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        match kind {
            Kind::Several => self.several(&mut tx, version).await?,
            Kind::DrawnBefore => self.drawn_before(&mut tx, version).await?,
            Kind::AfterASavepoint => self.after_a_savepoint(&mut tx, version).await?,
            Kind::Copied => self.copied(&mut tx, version).await?,
            Kind::Prepared => {
                self.insert(&mut tx, version).await?;
                let prepare = format!("PREPARE TRANSACTION '{gid}'");
                Postgres::execute_sql(&mut tx, &prepare).await?;
                // What follows is outside any transaction, for sqlx too.
                tx.commit().await?;
                self.pause().await;
                let ending = Ending::of_chance();
                let how = match ending {
                    Ending::Commit => "COMMIT",
                    Ending::Rollback => "ROLLBACK",
                };
                end_prepared(&self.pool, how, &gid).await?;
                return Ok(ending);
            }
        }
        self.pause().await;
        let ending = Ending::of_chance();
        match ending {
            Ending::Commit => tx.commit().await?,
            Ending::Rollback => tx.rollback().await?,
        }
        Ok(ending)
    }

    async fn several(&self, tx: &mut PgConnection, version: i64) -> Result<(), sqlx::Error> {
        self.insert(tx, version).await?;
        if fastrand::bool() {
            self.pause().await;
            self.insert(tx, version + 1).await?;
        }
        Ok(())
    }

    async fn drawn_before(&self, tx: &mut PgConnection, version: i64) -> Result<(), sqlx::Error> {
        let position: i64 = sqlx::query_scalar(
            "SELECT nextval(pg_get_serial_sequence('events', 'global_position'))",
        )
        .fetch_one(&mut *tx)
        .await?;
        self.pause().await;
        sqlx::query(INSERT_AT)
            .bind(&self.name)
            .bind(version)
            .bind(position)
            .execute(tx)
            .await
            .map(drop)
    }

    async fn after_a_savepoint(
        &self,
        tx: &mut PgConnection,
        version: i64,
    ) -> Result<(), sqlx::Error> {
        let mut savepoint = tx.begin().await?;
        self.insert(&mut savepoint, version).await?;
        self.pause().await;
        savepoint.rollback().await?;
        self.insert(tx, version).await
    }

    async fn copied(&self, tx: &mut PgConnection, version: i64) -> Result<(), sqlx::Error> {
        let mut rows = String::new();
        for version in version..version + 3 {
            let (name, id) = (&self.name, Uuid::new_v4());
            let _ = writeln!(rows, "Writer\t{name}\t{version}\t{id}\tWritten\t");
        }
        let mut copy = tx.copy_in_raw(COPY).await?;
        copy.send(rows.into_bytes()).await?;
        copy.finish().await.map(drop)
    }

    async fn insert(&self, tx: &mut PgConnection, version: i64) -> Result<(), sqlx::Error> {
        sqlx::query(INSERT)
            .bind(&self.name)
            .bind(version)
            .execute(tx)
            .await
            .map(drop)
    }

    /// Mostly a moment, now and then long.
    async fn pause(&self) {
        let share = fastrand::f64().powi(6);
        tokio::time::sleep(self.longest.mul_f64(share)).await;
    }

    fn database(&self) -> String {
        let options = self.pool.connect_options();
        options.get_database().unwrap_or_default().to_owned()
    }
}

async fn end_prepared(pool: &PgPool, how: &str, gid: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(format!("{how} PREPARED '{gid}'")))
        .execute(pool)
        .await
        .map(drop)
}

/// The obvious reader: it handles the events it sees and saves the highest position in the same
/// transaction. It is the control of every test of R11.
pub struct NaiveReader {
    task: tokio::task::JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl NaiveReader {
    /// Lets it read into the table `applied`, as the consumer `naive`.
    pub async fn start(pool: &PgPool) -> Self {
        sqlx::raw_sql("CREATE TABLE naive AS SELECT 0::bigint AS position")
            .execute(pool)
            .await
            .expect("make the table of the naive reader");
        let stop = Arc::new(AtomicBool::new(false));
        let (pool, stopped) = (pool.clone(), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            loop {
                let last_round = stopped.load(Ordering::Relaxed);
                match naive_step(&pool).await {
                    Ok(0) if last_round => return,
                    Ok(0) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Ok(_) => {}
                }
            }
        });
        Self { task, stop }
    }

    /// Lets it read to the end of the log.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the naive reader does not panic");
    }
}

/// Handles a batch the naive way, and says how many events it found.
pub async fn naive_step(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let applied = sqlx::query(
        "INSERT INTO applied (consumer, position, aggregate, version)
         SELECT 'naive', global_position, aggregate_id, aggregate_version FROM events
          WHERE global_position > (SELECT position FROM naive)
          ORDER BY global_position LIMIT 500",
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE naive SET position = greatest(position,
            (SELECT max(position) FROM applied WHERE consumer = 'naive'))",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(applied.rows_affected())
}
