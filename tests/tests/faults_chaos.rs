//! Everything at once: nothing is lost, nothing repeated, all in order.
//!
//! `CHAOS_SECONDS=300` makes it last for five minutes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use consumer::EventStore;
use consumer_tests::{Database, NaiveReader, TestPostgres, WorkerProcess, Writers, until};
use sqlx::Postgres;

const CONSUMERS: [&str; 3] = ["a", "b", "c"];

/// The worker processes, of which some are killed or frozen now and then.
struct Workers<'a> {
    db: &'a Database<Postgres>,
    running: Vec<WorkerProcess>,
    kills: u32,
    freezes: u32,
}

impl Workers<'_> {
    fn start_one(&self) -> WorkerProcess {
        WorkerProcess::of(env!("CARGO_BIN_EXE_test_worker"), self.db)
            .consumers(&CONSUMERS)
            .claim_timeout(Duration::from_secs(1))
            .batch_size(fastrand::u32(1..200))
            .start()
    }

    fn kill_one(&mut self) {
        let victim = fastrand::usize(..self.running.len());
        let successor = self.start_one();
        std::mem::replace(&mut self.running[victim], successor).kill();
        self.kills += 1;
    }

    async fn freeze_one(&mut self) {
        let victim = &self.running[fastrand::usize(..self.running.len())];
        victim.signal("STOP");
        // Longer than a claim lasts, or shorter: both must be survived.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..2_500))).await;
        victim.signal("CONT");
        self.freezes += 1;
    }
}

async fn cut_some_connections(db: &Database<Postgres>) {
    let cut = "SELECT pg_terminate_backend(pid)::int::bigint FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.3";
    let _ = sqlx::query(cut).fetch_all(&db.pool).await;
}

async fn answers(db: &Database<Postgres>) -> bool {
    sqlx::query("SELECT 1").execute(&db.pool).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_through_kills_freezes_crashes_and_cut_connections_each_event_is_applied_exactly_once()
{
    let seconds = std::env::var("CHAOS_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let duration = Duration::from_secs(seconds.unwrap_or(25));
    let server = TestPostgres::builder().start();
    let database = server.database().await;
    let db = Database::of(EventStore::new(database.pool.clone()), &database.url).await;
    let naive = NaiveReader::start(&db.pool).await;
    let mut workers = Workers {
        db: &db,
        running: Vec::new(),
        kills: 0,
        freezes: 0,
    };
    for _ in 0..3 {
        let worker = workers.start_one();
        workers.running.push(worker);
    }
    let writers = Writers::start(&db.pool, 8, Duration::from_secs(2));
    let started = Instant::now();
    let mut crashes = 0;
    while started.elapsed() < duration {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..800))).await;
        match fastrand::u8(..4) {
            0 => workers.kill_one(),
            1 => workers.freeze_one().await,
            2 => cut_some_connections(&db).await,
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
    for consumer in CONSUMERS {
        until("each consumer is at the head", async || {
            db.checkpoint(consumer)
                .await
                .is_some_and(|position| position >= head)
        })
        .await;
    }
    let (kills, freezes) = (workers.kills, workers.freezes);
    for worker in workers.running {
        assert!(worker.terminate());
    }
    naive.stop().await;

    for consumer in CONSUMERS {
        db.assert_applied_exactly_once(consumer).await;
        assert_eq!(db.checkpoint(consumer).await, Some(head));
    }
    let naive: HashSet<i64> = db.applied("naive").await.into_iter().collect();
    let lost = committed.len() - naive.len();
    println!(
        "{} events in {duration:?}, {kills} kills, {freezes} freezes, {crashes} crashes; the naive reader lost {lost}",
        committed.len()
    );
    assert!(
        lost > 0,
        "the naive reader lost nothing, so this proves nothing"
    );
}
