//! All faults at once: nothing is lost or repeated, and the order is kept.
//!
//! The long forms last for five minutes each:
//!
//! ```sh
//! CHAOS_SECONDS=300 cargo test -p consumer-tests --test faults_chaos -- --nocapture --test-threads=1
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};

use consumer_tests::{Database, Standby, Switch, TestPostgres, WorkerProcess, Writers, until};
use sqlx::{PgPool, Postgres};
use tempfile::TempDir;

const CONSUMERS: [&str; 3] = ["a", "b", "c"];

/// The consumer of the control, whose worker is ours too but has no protection.
const CONTROL: &str = "control";

/// How many rounds of faults a short form has.
const ROUNDS: u32 = 20;

/// After how many rounds the faults must have happened and the control must have lost an event.
const MOST_ROUNDS: u32 = 2_000;

/// The connections of a control that believes any server.
const TRUSTING: &str = "application_name = 'trusting'";

/// What a process runs.
#[derive(Clone, Copy)]
enum Kind {
    /// All of the [`CONSUMERS`].
    Ours,
    /// The [`CONTROL`].
    Control,
}

/// What has happened so far.
#[derive(Debug, Default)]
struct Faults {
    kills: u32,
    freezes: u32,
    crashes: u32,
    connections_cut: usize,
    standby_reached: usize,
    events_archived: i64,
}

/// The worker processes, which are killed and frozen at random.
struct Workers<'a> {
    ours: &'a Database<Postgres>,
    control: &'a Database<Postgres>,
    running: Vec<(Kind, WorkerProcess)>,
    directory: TempDir,
}

impl<'a> Workers<'a> {
    fn start(ours: &'a Database<Postgres>, control: &'a Database<Postgres>) -> Self {
        let mut workers = Self {
            ours,
            control,
            running: Vec::new(),
            directory: tempfile::tempdir().unwrap(),
        };
        for kind in [Kind::Ours, Kind::Ours, Kind::Ours, Kind::Control] {
            let worker = workers.start_one(kind);
            workers.running.push((kind, worker));
        }
        workers
    }

    fn start_one(&self, kind: Kind) -> WorkerProcess {
        let (db, consumers) = match kind {
            Kind::Ours => (self.ours, &CONSUMERS[..]),
            Kind::Control => (self.control, &[CONTROL][..]),
        };
        WorkerProcess::of(env!("CARGO_BIN_EXE_test_worker"), db)
            .consumers(consumers)
            .claim_timeout(Duration::from_secs(1))
            .batch_size(fastrand::u32(1..200))
            .restarts(&self.restarts(kind))
            .start()
    }

    fn kill_one(&mut self) {
        let victim = fastrand::usize(..self.running.len());
        let kind = self.running[victim].0;
        let successor = (kind, self.start_one(kind));
        let (_, victim) = std::mem::replace(&mut self.running[victim], successor);
        victim.kill();
    }

    async fn freeze_one(&mut self) {
        let (_, victim) = &self.running[fastrand::usize(..self.running.len())];
        victim.signal("STOP");
        // Shorter or longer than a claim lasts.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..2_500))).await;
        victim.signal("CONT");
    }

    /// The file with the reasons why workers of that kind had to start again.
    fn restarts(&self, kind: Kind) -> PathBuf {
        let name = match kind {
            Kind::Ours => "ours",
            Kind::Control => "control",
        };
        self.directory.path().join(name)
    }

    fn end(self) {
        for (_, worker) in self.running {
            assert!(worker.terminate());
        }
    }
}

/// A standby that lags behind, to which a connection to the workers' address may lead.
struct LaggingStandby {
    standby: Standby,
    switch: Switch,
    direct: PgPool,
    led: usize,
}

impl LaggingStandby {
    async fn of(server: &TestPostgres, db: &Database<Postgres>) -> Self {
        let standby = Standby::of(server);
        let direct = PgPool::connect(&standby.url(db.name())).await.unwrap();
        let lagging = Self {
            switch: Switch::before(server.port()).await,
            standby,
            direct,
            led: 0,
        };
        assert!(lagging.replay("pause").await);
        lagging
    }

    /// The URL of the primary as the workers know it.
    fn url(&self, db: &Database<Postgres>) -> String {
        let port = self.switch.port();
        format!("postgres://postgres@127.0.0.1:{port}/{}", db.name())
    }

    /// Leads the next connections to the standby, which has caught up now and then. Returns how many of
    /// the last ones that were led there came.
    async fn lead(&mut self) -> usize {
        const CONNECTIONS: usize = 4;
        let reached = self.led - self.switch.take_all_back();
        if fastrand::u8(..4) == 0 && self.replay("resume").await {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..200))).await;
            until("its replay is paused", async || self.replay("pause").await).await;
        }
        self.switch.lead_next(CONNECTIONS, self.standby.port());
        self.led = CONNECTIONS;
        reached
    }

    /// Leads no more connections to the standby, and ends those that are there. The control would stay, and a
    /// standby whose replay rested for long may find that the primary has removed what it lacks.
    async fn end(&self) {
        let _ = self.switch.take_all_back();
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query(end).execute(&self.direct).await.unwrap();
    }

    async fn replay(&self, how: &str) -> bool {
        let sql = format!("SELECT pg_wal_replay_{how}()");
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
        sql.execute(&self.direct).await.is_ok()
    }
}

/// What happens besides kills, freezes, crashes and cut connections.
enum Besides {
    Nothing,
    Standby(LaggingStandby),
    Archiver,
}

/// A server, its workers, and what happens to them.
struct Chaos<'a> {
    server: &'a TestPostgres,
    db: &'a Database<Postgres>,
    workers: Workers<'a>,
    besides: Besides,
    faults: Faults,
    rounds: u32,
    shortest: Duration,
    started: Instant,
}

impl<'a> Chaos<'a> {
    fn start(
        server: &'a TestPostgres,
        db: &'a Database<Postgres>,
        (ours, control): (&'a Database<Postgres>, &'a Database<Postgres>),
        besides: Besides,
        shortest: Duration,
    ) -> Self {
        Self {
            server,
            db,
            workers: Workers::start(ours, control),
            besides,
            faults: Faults::default(),
            rounds: 0,
            shortest,
            started: Instant::now(),
        }
    }

    async fn play(&mut self) {
        while !self.is_over() || !self.control_lost_an_event().await {
            assert!(self.rounds < MOST_ROUNDS, "{:?}", self.faults);
            self.rounds += 1;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..800))).await;
            self.strike().await;
            if self.faults.crashes < 2 && self.progress() > f64::from(self.faults.crashes + 1) / 3.0
            {
                self.server.crash();
                self.server.start();
                self.faults.crashes += 1;
            }
        }
        until("the server answers", async || self.answers().await).await;
    }

    /// How much of the rounds and of the time has passed.
    fn progress(&self) -> f64 {
        let rounds = f64::from(self.rounds) / f64::from(ROUNDS);
        if self.shortest.is_zero() {
            return rounds;
        }
        rounds.min(self.started.elapsed().div_duration_f64(self.shortest))
    }

    /// On a slow machine, not everything has happened after the usual rounds.
    fn is_over(&self) -> bool {
        let Faults {
            kills,
            freezes,
            crashes,
            connections_cut,
            standby_reached,
            events_archived,
        } = self.faults;
        let besides = match self.besides {
            Besides::Nothing => true,
            Besides::Standby(_) => standby_reached > 2,
            Besides::Archiver => events_archived > 100,
        };
        let has_all = kills > 0 && freezes > 0 && crashes > 1 && connections_cut > 0 && besides;
        self.progress() >= 1.0 && has_all
    }

    async fn control_lost_an_event(&self) -> bool {
        let lost = format!(
            "SELECT count(*) > (SELECT count(*) FROM applied WHERE consumer = '{CONTROL}')
               FROM (SELECT global_position FROM events
                      UNION ALL SELECT global_position FROM archived) AS e
              WHERE global_position <= (SELECT position FROM consumer_progress
                                         WHERE consumer = '{CONTROL}')"
        );
        let lost = sqlx::query_scalar(sqlx::AssertSqlSafe(lost));
        lost.fetch_one(&self.db.pool).await.unwrap_or(false)
    }

    async fn strike(&mut self) {
        // Workers that are killed faster than they catch up with the writers never see an open gap.
        let fault = if self.is_over() {
            fastrand::u8(3..20)
        } else {
            fastrand::u8(..6)
        };
        match fault {
            0 => {
                self.workers.kill_one();
                self.faults.kills += 1;
            }
            1 => {
                self.workers.freeze_one().await;
                self.faults.freezes += 1;
            }
            2 => self.faults.connections_cut += self.cut_connections("true").await,
            3 | 4 => self.strike_besides().await,
            _ => {}
        }
    }

    async fn strike_besides(&mut self) {
        match &mut self.besides {
            Besides::Nothing => {}
            Besides::Standby(standby) => {
                self.faults.standby_reached += standby.lead().await;
                let whose = if fastrand::bool() { TRUSTING } else { "true" };
                self.faults.connections_cut += self.cut_connections(whose).await;
            }
            Besides::Archiver => self.faults.events_archived += self.archive().await,
        }
    }

    /// Ends a third of the connections that meet a condition.
    async fn cut_connections(&self, condition: &str) -> usize {
        let cut = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.3
                AND {condition}"
        );
        let cut = sqlx::query(sqlx::AssertSqlSafe(cut));
        let cut = cut.fetch_all(&self.db.pool).await;
        cut.map_or(0, |cut| cut.len())
    }

    /// Moves some of the events that all consumers have passed out of the log, never the newest of an
    /// aggregate, after which the next one would have its version.
    async fn archive(&self) -> i64 {
        let archive = "
            WITH gone AS (
                DELETE FROM events AS e USING (
                    SELECT min(position) AS up_to FROM consumer_progress HAVING count(*) = 4) AS passed
                 WHERE e.global_position <= passed.up_to AND random() < 0.7 AND EXISTS (
                       SELECT 1 FROM events AS o
                        WHERE o.aggregate_type = e.aggregate_type AND o.aggregate_id = e.aggregate_id
                          AND o.aggregate_version > e.aggregate_version)
             RETURNING e.*)
            INSERT INTO archived SELECT * FROM gone";
        let archived = sqlx::query(archive).execute(&self.db.pool).await;
        archived.map_or(0, |archived| archived.rows_affected().cast_signed())
    }

    async fn answers(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.db.pool).await.is_ok()
    }

    /// Waits for all consumers, ends the workers, and checks what they did.
    async fn finish(self) {
        if let Besides::Standby(standby) = &self.besides {
            standby.end().await;
        }
        let head = self
            .db
            .number("SELECT max(global_position) FROM events")
            .await;
        let everyone = || CONSUMERS.into_iter().chain([CONTROL]);
        for consumer in everyone() {
            let at_the_head = format!("{consumer} is at the head, {head}");
            until(&at_the_head, async || {
                let checkpoint = self.db.checkpoint(consumer).await;
                checkpoint.is_some_and(|position| position >= head)
            })
            .await;
        }
        let restarts = std::fs::read_to_string(self.workers.restarts(Kind::Ours));
        let restarts = restarts.unwrap_or_default();
        self.workers.end();
        let from_the_archive = "INSERT INTO events SELECT * FROM archived";
        self.db.execute(from_the_archive).await;
        let events = self.db.number("SELECT count(*) FROM events").await;
        println!(
            "{events} events and {} gaps in {:?}: {:?}, {} starts repeated",
            head - events,
            self.started.elapsed(),
            self.faults,
            restarts.lines().count()
        );
        // A standby does not show locks, and is not blamed for that.
        assert!(!restarts.contains("`nextval`"), "{restarts}");
        for consumer in everyone() {
            assert_eq!(self.db.checkpoint(consumer).await, Some(head), "{consumer}");
        }
        for consumer in CONSUMERS {
            self.db.assert_applied_exactly_once(consumer).await;
        }
        let lost = self.db.applied_exactly_once(CONTROL).await;
        println!("without the protection: {lost:?}");
        assert!(lost.is_err(), "the control lost nothing");
    }
}

/// A server of its own, and a database with a place for archived events.
async fn server() -> (TestPostgres, Database<Postgres>) {
    let server = TestPostgres::builder().start();
    let db = Database::on(&server).await;
    db.execute("CREATE TABLE archived (LIKE events)").await;
    (server, db)
}

/// The time of the long form, or else that of a short one.
fn seconds(short: u64) -> Duration {
    let long = std::env::var("CHAOS_SECONDS").ok();
    let long = long.and_then(|text| text.parse().ok());
    Duration::from_secs(long.unwrap_or(short))
}

async fn play(mut chaos: Chaos<'_>) {
    let writers = Writers::start(&chaos.db.pool, 8, Duration::from_secs(2));
    chaos.play().await;
    writers.stop(&chaos.db.pool).await;
    chaos.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_chaos_applies_each_event_exactly_once() {
    let (server, db) = server().await;
    let blind = db.blindfolded().await;
    let workers = (&db, &blind);
    play(Chaos::start(
        &server,
        &db,
        workers,
        Besides::Nothing,
        seconds(25),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_chaos_behind_a_pooler_applies_each_event_exactly_once() {
    let (server, db) = server().await;
    let (blind, pooled) = (db.blindfolded().await, db.pooled().await);
    let workers = (&pooled, &blind);
    play(Chaos::start(
        &server,
        &db,
        workers,
        Besides::Nothing,
        seconds(12),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_chaos_with_a_standby_applies_each_event_exactly_once() {
    let (server, db) = server().await;
    // Before the standby, which has these functions too.
    db.let_trusting_sessions_be_misled().await;
    let standby = LaggingStandby::of(&server, &db).await;
    let url = standby.url(&db);
    let ours = Database::of(db.store.clone(), &url);
    let trusting = format!("{url}?application_name=trusting");
    let trusting = Database::of(db.store.clone(), &trusting);
    let workers = (&ours, &trusting);
    let besides = Besides::Standby(standby);
    play(Chaos::start(&server, &db, workers, besides, seconds(0))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_chaos_beside_an_archiver_applies_each_event_exactly_once() {
    let (server, db) = server().await;
    let blind = db.blindfolded().await;
    let workers = (&db, &blind);
    play(Chaos::start(
        &server,
        &db,
        workers,
        Besides::Archiver,
        seconds(0),
    ))
    .await;
}
