//! All faults at once: nothing is lost or repeated, and the order is kept.
//!
//! The long form lasts for five minutes:
//!
//! ```sh
//! CHAOS_SECONDS=300 cargo test -p consumer-tests --test faults_chaos -- --nocapture r11_chaos_applies
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use consumer_tests::{Database, TestPostgres, WorkerProcess, Writers, until};
use sqlx::Postgres;
use tempfile::TempDir;

const CONSUMERS: [&str; 3] = ["a", "b", "c"];

/// What a process runs.
#[derive(Clone, Copy)]
enum Kind {
    /// All of the [`CONSUMERS`].
    Ours,
    /// The control: the consumer `blind`, whose worker is ours but takes `max(global_position)`
    /// for the frontier.
    Blind,
}

/// The worker processes, which are killed and frozen at random.
struct Workers<'a> {
    ours: &'a Database<Postgres>,
    blind: &'a Database<Postgres>,
    running: Vec<(Kind, WorkerProcess)>,
    directory: TempDir,
    kills: u32,
    freezes: u32,
}

impl<'a> Workers<'a> {
    fn start(ours: &'a Database<Postgres>, blind: &'a Database<Postgres>) -> Self {
        let mut workers = Self {
            ours,
            blind,
            running: Vec::new(),
            directory: tempfile::tempdir().unwrap(),
            kills: 0,
            freezes: 0,
        };
        for kind in [Kind::Ours, Kind::Ours, Kind::Ours, Kind::Blind] {
            let worker = workers.start_one(kind);
            workers.running.push((kind, worker));
        }
        workers
    }

    fn start_one(&self, kind: Kind) -> WorkerProcess {
        let (db, consumers) = match kind {
            Kind::Ours => (self.ours, &CONSUMERS[..]),
            Kind::Blind => (self.blind, &["blind"][..]),
        };
        WorkerProcess::of(env!("CARGO_BIN_EXE_test_worker"), db)
            .consumers(consumers)
            .claim_timeout(Duration::from_secs(1))
            .batch_size(fastrand::u32(1..200))
            .restarts(&self.restarts())
            .start()
    }

    fn kill_one(&mut self) {
        let victim = fastrand::usize(..self.running.len());
        let kind = self.running[victim].0;
        let successor = (kind, self.start_one(kind));
        let (_, victim) = std::mem::replace(&mut self.running[victim], successor);
        victim.kill();
        self.kills += 1;
    }

    async fn freeze_one(&mut self) {
        let (_, victim) = &self.running[fastrand::usize(..self.running.len())];
        victim.signal("STOP");
        // Shorter or longer than a claim lasts.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..2_500))).await;
        victim.signal("CONT");
        self.freezes += 1;
    }

    fn restarts(&self) -> PathBuf {
        self.directory.path().join("restarts")
    }

    fn end(self) {
        for (_, worker) in self.running {
            assert!(worker.terminate());
        }
    }
}

fn lines(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().count()
}

async fn cut_some_connections(db: &Database<Postgres>) -> usize {
    let cut = "SELECT pg_terminate_backend(pid)::int::bigint FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.3";
    let cut = sqlx::query(cut).fetch_all(&db.pool).await;
    cut.map_or(0, |cut| cut.len())
}

async fn answers(db: &Database<Postgres>) -> bool {
    sqlx::query("SELECT 1").execute(&db.pool).await.is_ok()
}

async fn chaos(duration: Duration, through_a_pooler: bool) {
    let server = TestPostgres::builder().start();
    let db = Database::on(&server).await;
    let blind = db.blindfolded().await;
    let pooled = if through_a_pooler {
        Some(db.pooled().await)
    } else {
        None
    };
    let mut workers = Workers::start(pooled.as_ref().unwrap_or(&db), &blind);
    let writers = Writers::start(&db.pool, 8, Duration::from_secs(2));
    let started = Instant::now();
    let (mut crashes, mut cut) = (0, 0);
    // On a slow machine, not everything has happened by then.
    while started.elapsed() < duration
        || crashes < 2
        || cut == 0
        || workers.kills == 0
        || workers.freezes == 0
    {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..800))).await;
        match fastrand::u8(..4) {
            0 => workers.kill_one(),
            1 => workers.freeze_one().await,
            2 => cut += cut_some_connections(&db).await,
            _ => {}
        }
        if crashes < 2 && started.elapsed() > duration * (crashes + 1) / 3 {
            server.crash();
            server.start();
            crashes += 1;
        }
    }
    until("the server answers", async || answers(&db).await).await;
    writers.stop(&db.pool).await;
    let committed = db
        .numbers("SELECT global_position FROM events ORDER BY 1")
        .await;
    let head = *committed.last().unwrap();
    let everybody = || CONSUMERS.into_iter().chain(["blind"]);
    for consumer in everybody() {
        until("each consumer is at the head", async || {
            db.checkpoint(consumer)
                .await
                .is_some_and(|position| position >= head)
        })
        .await;
    }
    let (kills, freezes, restarts) = (workers.kills, workers.freezes, lines(&workers.restarts()));
    workers.end();

    let events = committed.len();
    let gaps = head - i64::try_from(events).unwrap();
    println!(
        "{events} events and {gaps} gaps in {:?}: {kills} kills, {freezes} freezes, {crashes} crashes, {cut} connections cut, {restarts} starts repeated",
        started.elapsed()
    );
    for consumer in everybody() {
        assert_eq!(db.checkpoint(consumer).await, Some(head), "{consumer}");
    }
    for consumer in CONSUMERS {
        db.assert_applied_exactly_once(consumer).await;
    }
    let lost = db.applied_exactly_once("blind").await;
    println!("with max(global_position) for the frontier: {lost:?}");
    assert!(
        lost.is_err(),
        "the control lost nothing, so this proves nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_chaos_applies_each_event_exactly_once() {
    let seconds = std::env::var("CHAOS_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    chaos(Duration::from_secs(seconds.unwrap_or(25)), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_chaos_behind_a_pooler_applies_each_event_exactly_once() {
    chaos(Duration::from_secs(12), true).await;
}
