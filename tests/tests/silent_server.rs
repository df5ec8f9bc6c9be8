//! A worker believes only the server on which it settled the log, and only a log that it sees whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use std::time::Duration;

use consumer::admin::{Admin, AdminError};
use consumer::{
    ConsumerState, ExpectedVersion, HealthProblem, LogProblem, NewEvent, OnError, PgEventStore,
    Report, Settings, WorkerBuilder, WorkerError,
};
use consumer_tests::{
    Database, Model, Running, Standby, Switch, TestDatabase, TestPostgres, consumer, impatient,
    keep_log, log_problem, logged, patiently, read_model, run_once, test_on, until,
};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, Database as _, PgConnection, PgPool, Postgres};
use tokio::sync::Semaphore;

/// A worker whose next connection may reach a standby that lacks the newest events.
struct Switched {
    running: Running<Postgres>,
    switch: Switch,
    standby: Standby,
    lagging: PgPool,
    /// The database without the switch.
    direct: Database<Postgres>,
    appended: Vec<i64>,
    _server: TestPostgres,
}

impl Switched {
    async fn start() -> Self {
        Self::of(PgPoolOptions::new(), |worker| {
            worker.consumer(read_model("users"))
        })
        .await
    }

    async fn of(
        options: PgPoolOptions,
        with_consumer: impl FnOnce(WorkerBuilder<Postgres>) -> WorkerBuilder<Postgres>,
    ) -> Self {
        let server = TestPostgres::builder().start();
        let direct = Database::on(&server).await;
        let standby = Standby::of(&server);
        let lagging = PgPool::connect(&standby.url(direct.name())).await.unwrap();
        let appended = direct.append_many(5).await;
        until("the standby has the first events", async || {
            let count = sqlx::query_scalar("SELECT count(*) FROM events");
            count
                .fetch_one(&lagging)
                .await
                .is_ok_and(|count: i64| count == 5)
        })
        .await;
        sqlx::query("SELECT pg_wal_replay_pause()")
            .execute(&lagging)
            .await
            .unwrap();
        let switch = Switch::before(server.port()).await;
        let url = format!(
            "postgres://postgres@127.0.0.1:{}/{}?application_name=switched",
            switch.port(),
            direct.name()
        );
        let pool = options.connect(&url).await.unwrap();
        let db = Database::of(PgEventStore::new(pool), &url);
        let running = Running::start(with_consumer(db.worker()));
        patiently("it handles the first", running.caught_up_to(5))
            .await
            .unwrap();
        Self {
            running,
            switch,
            standby,
            lagging,
            direct,
            appended,
            _server: server,
        }
    }

    /// The server processes of the worker's connections that meet a condition.
    async fn backends(&self, condition: &str) -> Vec<i64> {
        let backends = format!(
            "SELECT pid::bigint FROM pg_stat_activity
              WHERE application_name = 'switched' AND {condition} ORDER BY backend_start, pid"
        );
        self.direct.numbers(&backends).await
    }

    /// Ends a connection, appends events, and waits for them to be handled. Returns whether the
    /// connection that replaces it reached the standby.
    async fn reconnect(&mut self, backend: i64) -> bool {
        self.switch.lead_next_to(self.standby.port());
        let terminate = format!("SELECT pg_terminate_backend({backend})::int::bigint");
        self.direct.number(&terminate).await;
        self.appended.extend(self.direct.append_many(3).await);
        let last = self.appended[self.appended.len() - 1];
        patiently("it handles the next", self.running.caught_up_to(last))
            .await
            .unwrap();
        assert_eq!(self.direct.applied("users").await, self.appended);
        !self.switch.take_back()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_connection_to_a_lagging_standby_loses_nothing() {
    let mut switched = Switched::start().await;
    let mut reached = 0;
    for turn in 0..8 {
        let backends = switched.backends("true").await;
        let backend = backends[turn % backends.len()];
        reached += usize::from(switched.reconnect(backend).await);
    }
    assert!(reached > 0, "no connection reached the standby");
    switched.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_reader_on_a_promoted_standby_loses_nothing() {
    let mut switched = Switched::start().await;
    sqlx::query("SELECT pg_promote()")
        .execute(&switched.lagging)
        .await
        .unwrap();
    let reads_the_log = "query ~ '^\\s*\\(\\s*SELECT'";
    let mut reached = 0;
    // A connection that is ended while it rests is replaced by one that rests too.
    for turn in 0..8 {
        let readers = switched.backends(reads_the_log).await;
        let Some(&reader) = readers.get(turn % readers.len().max(1)) else {
            continue;
        };
        reached += usize::from(switched.reconnect(reader).await);
    }
    assert!(reached > 0, "no reader reached the standby");
    switched.running.stop().await;
}

/// A connection that asks for the head is not that of the poller.
#[tokio::test(flavor = "multi_thread")]
async fn caught_up_does_not_believe_a_standby() {
    let gate = Arc::new(Semaphore::new(5));
    let model = Model::new("users").gate(&gate);
    // No connection is used twice, so each may reach another server.
    let options = PgPoolOptions::new().after_release(|_, _| Box::pin(async { Ok(false) }));
    let mut switched = Switched::of(options, |worker| worker.scoped_consumer(model.clone())).await;
    switched
        .appended
        .extend(switched.direct.append_many(3).await);
    // All of them, until it has asked several times.
    switched.switch.lead_next(50, switched.standby.port());
    let handle = (*switched.running).clone();
    let seen = model.clone();
    let caught_up = tokio::spawn(async move {
        handle.caught_up().await.unwrap();
        seen.seen()
    });
    until("it asks again, or believes the answer", async || {
        caught_up.is_finished() || switched.switch.left() < 40
    })
    .await;
    let _ = switched.switch.take_all_back();
    gate.add_permits(3);
    let seen = patiently("it catches up", caught_up).await.unwrap();
    let seen: Vec<i64> = seen.iter().map(|seen| seen.position).collect();
    assert_eq!(seen, switched.appended);
    switched.running.stop().await;
}

/// Like a balancer that asks a standby for the holders of locks, once `from_standby` has a row.
async fn balanced() -> Database<Postgres> {
    let db = Database::<Postgres>::fresh().await;
    db.execute(
        "CREATE TABLE from_standby ();
         CREATE FUNCTION is_standby() RETURNS boolean LANGUAGE sql AS $$
             SELECT current_query() LIKE '%pg_locks%' AND EXISTS (SELECT FROM public.from_standby) $$",
    )
    .await;
    // The server calls a built-in function by its number, unless the planner can put its body inline.
    db.replace_in_catalog(
        "CREATE OR REPLACE VIEW pg_catalog.pg_locks AS
         SELECT l.* FROM pg_lock_status() AS l WHERE NOT EXISTS (SELECT FROM public.from_standby);
         CREATE OR REPLACE FUNCTION pg_catalog.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS $$
             SELECT public.is_standby() $$",
    )
    .await;
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_asks_a_standby_for_its_lock_says_so() {
    let db = balanced().await;
    db.execute("INSERT INTO from_standby DEFAULT VALUES").await;
    let worker = db.worker().consumer(read_model("users")).build().unwrap();
    let refused = patiently("it refuses", worker.run_once())
        .await
        .unwrap_err();
    assert!(matches!(refused, WorkerError::Database(_)), "{refused}");
    let cause = std::error::Error::source(&refused).unwrap().to_string();
    assert!(cause.contains("the answer is that of a standby"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_standby_without_locks_settles_no_gap() {
    let db = balanced().await;
    let running = Running::start(db.worker().consumer(read_model("users")));
    let first = db.append_one("User", "a").await;
    patiently("it handles the first", running.caught_up_to(first))
        .await
        .unwrap();
    let mut tx = db.store.begin().await.unwrap();
    let late = db.append_in(&mut tx, "late").await;
    let last = db.append_one("User", "b").await;
    db.execute("INSERT INTO from_standby DEFAULT VALUES").await;
    until("the answer is discarded", async || {
        let problems = running.health().problems;
        problems
            .iter()
            .any(|problem| matches!(problem, HealthProblem::Disconnected { .. }))
    })
    .await;
    db.execute("DELETE FROM from_standby").await;
    tx.commit().await.unwrap();
    patiently("it handles the others", running.caught_up_to(last))
        .await
        .unwrap();
    running.stop().await;
    assert_eq!(db.applied("users").await, [first, late, last]);
}

/// The reader may connect again before the poller does.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_reports_no_skipped_version() {
    keep_log();
    let server = TestPostgres::builder().start();
    let db = Database::<Postgres>::on(&server).await;
    let names = ["a", "b", "c", "d"];
    let worker = names.iter().fold(db.worker(), |worker, name| {
        worker.consumer(read_model(name))
    });
    let running = Running::start(worker);
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, is_over) = (db.store.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut n = 0;
            while !is_over.load(Ordering::SeqCst) {
                let event = NewEvent::new("User", format!("crash-{}", n % 7), "Changed", "{}");
                // It fails while the server is down.
                let _ = store.append(ExpectedVersion::Any, &[event]).await;
                n += 1;
                tokio::task::yield_now().await;
            }
        })
    };
    for _ in 0..6 {
        let head = db
            .number("SELECT coalesce(max(global_position), 0) FROM events")
            .await;
        patiently("it handles more", running.caught_up_to(head + 20))
            .await
            .unwrap();
        server.crash();
        server.start();
        until("the server answers", async || {
            sqlx::query("SELECT 1").execute(&db.pool).await.is_ok()
        })
        .await;
    }
    is_over.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    patiently("it catches up", running.caught_up())
        .await
        .unwrap();
    running.stop().await;
    let log = db.log().await;
    for name in names {
        assert_eq!(db.applied(name).await, log, "{name}");
    }
    assert_eq!(logged(&["ERROR", "crash-"]), [""; 0]);
}

// Conditions that can change under a running worker

/// The reason why a worker refuses to start on this log.
async fn refusal(db: &Database<Postgres>) -> String {
    let worker = db.worker().consumer(read_model("refused")).build().unwrap();
    let refused = patiently("it refuses", worker.run_once()).await;
    log_problem(refused.unwrap_err()).to_string()
}

/// Changes the log under a running worker, which must end for the reason why another one would not
/// start.
async fn assert_ends_a_worker(change: &str) {
    let db = Database::<Postgres>::fresh().await;
    let running = Running::start(db.worker().consumer(read_model("users")));
    db.append("User", ["a", "b"]).await;
    patiently("it runs", running.caught_up()).await.unwrap();
    db.execute(change).await;
    let ended = running.end().await.expect_err("the log has to be refused");
    assert_eq!(ended.to_string(), refusal(&db).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_sequence_that_gets_a_cache_ends_the_worker() {
    assert_ends_a_worker("ALTER SEQUENCE events_global_position_seq CACHE 20").await;
}

/// Not even before the next check of the conditions.
#[tokio::test(flavor = "multi_thread")]
async fn r11_no_event_is_passed_once_the_sequence_has_a_cache() {
    let db = Database::<Postgres>::fresh().await;
    let worker = db.worker().snapshot_interval(Duration::from_hours(1));
    let running = Running::start(worker.consumer(read_model("users")));
    db.append("User", ["a", "b"]).await;
    patiently("it runs", running.caught_up()).await.unwrap();
    db.execute("ALTER SEQUENCE events_global_position_seq CACHE 20")
        .await;
    let mut sessions = Vec::new();
    for _ in 0..2 {
        sessions.push(PgConnection::connect(&db.url).await.unwrap());
    }
    for turn in 0..4 {
        for (number, session) in sessions.iter_mut().enumerate() {
            let mut tx = session.begin().await.unwrap();
            db.append_in(&mut tx, &format!("{turn}-{number}")).await;
            tx.commit().await.unwrap();
        }
    }
    running.end().await.expect_err("the log has to be refused");
    drop(sessions);
    db.execute("ALTER SEQUENCE events_global_position_seq CACHE 1")
        .await;
    run_once(db.worker().consumer(read_model("users"))).await;
    assert_eq!(db.applied("users").await, db.log().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_sequence_that_counts_down_ends_the_worker() {
    let change = "ALTER SEQUENCE events_global_position_seq INCREMENT BY -1 MINVALUE -1000";
    assert_ends_a_worker(change).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_sequence_that_leaves_numbers_out_ends_the_worker() {
    assert_ends_a_worker("ALTER SEQUENCE events_global_position_seq INCREMENT BY 10").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_sequence_that_starts_again_ends_the_worker() {
    assert_ends_a_worker("ALTER SEQUENCE events_global_position_seq RESTART").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_sequence_that_cycles_ends_the_worker() {
    assert_ends_a_worker("ALTER SEQUENCE events_global_position_seq CYCLE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_column_that_draws_from_a_second_sequence_is_refused() {
    let change = "CREATE SEQUENCE another START 100;
         ALTER TABLE events ALTER global_position SET DEFAULT nextval('another')";
    assert_ends_a_worker(change).await;
}

/// The way of a role into the database for which row-level security, once on, hides events.
async fn restricted(db: &Database<Postgres>) -> Database<Postgres> {
    let role = format!("app_{}", fastrand::u64(..));
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role};
         CREATE POLICY visible ON events FOR SELECT USING (aggregate_id = 'mine')"
    ))
    .await;
    let url = db.url.replace("postgres@", &format!("{role}@"));
    Database::of(PgEventStore::connect(&url).await.unwrap(), &url)
}

const HIDE: &str = "ALTER TABLE events ENABLE ROW LEVEL SECURITY";
const SHOW: &str = "ALTER TABLE events DISABLE ROW LEVEL SECURITY";

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_that_hides_events_is_refused() {
    let db = Database::<Postgres>::fresh().await;
    let restricted = restricted(&db).await;
    let positions = db.append("User", ["mine", "another", "mine"]).await;
    run_once(restricted.worker().consumer(read_model("users"))).await;
    assert_eq!(db.applied("users").await, positions, "all is visible yet");
    db.execute(HIDE).await;
    let refused = refusal(&restricted).await;
    assert!(refused.contains("row-level security"), "{refused}");
    // It does not apply to the owner.
    run_once(db.worker().consumer(read_model("users"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_that_is_enabled_later_ends_the_worker() {
    let db = Database::<Postgres>::fresh().await;
    let restricted = restricted(&db).await;
    let running = Running::start(restricted.worker().consumer(read_model("users")));
    db.append("User", ["another"]).await;
    patiently("it runs", running.caught_up()).await.unwrap();
    db.execute(HIDE).await;
    let ended = running.end().await.expect_err("the log has to be refused");
    assert!(ended.to_string().contains("row-level security"), "{ended}");
}

/// Not even before the next check of the conditions.
#[tokio::test(flavor = "multi_thread")]
async fn r11_no_event_is_passed_once_rows_are_hidden() {
    let db = Database::<Postgres>::fresh().await;
    let restricted = restricted(&db).await;
    let worker = restricted
        .worker()
        .snapshot_interval(Duration::from_hours(1));
    let running = Running::start(worker.consumer(read_model("users")));
    db.append("User", ["a", "mine"]).await;
    patiently("it runs", running.caught_up()).await.unwrap();
    db.execute(HIDE).await;
    db.append("User", ["b", "mine", "c", "mine"]).await;
    let ended = running.end().await.expect_err("the log has to be refused");
    assert_eq!(ended.to_string(), refusal(&restricted).await);
    db.execute(SHOW).await;
    run_once(restricted.worker().consumer(read_model("users"))).await;
    assert_eq!(db.applied("users").await, db.log().await);
}

/// Events that were settled while all rows were visible, and are read after that.
#[tokio::test(flavor = "multi_thread")]
async fn r11_no_settled_event_is_passed_once_rows_are_hidden() {
    let db = Database::<Postgres>::fresh().await;
    let restricted = restricted(&db).await;
    // More than one read fetches.
    db.append_many(2_500).await;
    let pool = db.pool.clone();
    let hiding = consumer::<Postgres, _>("users", move |_, tx, event| {
        let pool = pool.clone();
        Box::pin(async move {
            if event.global_position == 1 {
                sqlx::raw_sql(HIDE).execute(&pool).await?;
            }
            Ok(Postgres::apply(tx, "users", event).await?)
        })
    });
    // Only a poll would find out, and none comes soon.
    let worker = restricted
        .worker()
        .snapshot_interval(Duration::from_hours(1));
    let worker = worker
        .poll_interval(Duration::from_hours(1))
        .consumer(hiding);
    let running = Running::start(worker);
    until("it ends, or waits", async || {
        let waits = |state: &ConsumerState| matches!(state, ConsumerState::Waiting { error } if error.contains("row-level security"));
        running.health().problems.iter().any(|problem| matches!(problem, HealthProblem::Ended { .. }))
            || waits(&running.consumers()[0].state)
    })
    .await;
    running.abort().await;
    db.execute(SHOW).await;
    run_once(restricted.worker().consumer(read_model("users"))).await;
    assert_eq!(db.applied("users").await, db.log().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_database_whose_triggers_are_off_is_refused() {
    let db = Database::<Postgres>::fresh().await;
    let name = db.name().to_owned();
    db.execute(&format!(
        "ALTER DATABASE {name} SET session_replication_role = replica"
    ))
    .await;
    let store = PgEventStore::connect(&db.url).await.unwrap();
    let refused = refusal(&Database::of(store, &db.url)).await;
    assert!(refused.contains("session_replication_role"), "{refused}");
    db.execute(&format!(
        "ALTER DATABASE {name} RESET session_replication_role"
    ))
    .await;
    let store = PgEventStore::connect(&db.url).await.unwrap();
    run_once(
        Database::of(store, &db.url)
            .worker()
            .consumer(read_model("users")),
    )
    .await;
}

/// The worker finds out when it connects again.
#[tokio::test(flavor = "multi_thread")]
async fn r4_triggers_that_are_switched_off_later_end_the_worker() {
    let db = Database::<Postgres>::fresh().await;
    let running = Running::start(db.worker().consumer(read_model("users")));
    db.append("User", ["a", "b"]).await;
    patiently("it runs", running.caught_up()).await.unwrap();
    // Not over a connection of the pool, which the worker would use next.
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    let name = db.name();
    let off = format!("ALTER DATABASE {name} SET session_replication_role = replica");
    Postgres::execute_sql(&mut other, &off).await.unwrap();
    // After that is committed.
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
    Postgres::execute_sql(&mut other, terminate).await.unwrap();
    let ended = running.end().await.expect_err("the database is refused");
    assert!(
        matches!(ended, WorkerError::Log(LogProblem::TriggersOff)),
        "{ended:?}"
    );
}

// A frontier that waits

#[tokio::test(flavor = "multi_thread")]
async fn a_frontier_blocked_for_too_long_is_a_health_problem() {
    let db = Database::<Postgres>::fresh().await;
    db.append("User", ["first"]).await;
    let worker = db.worker().stall_after(Duration::from_millis(300));
    let running = Running::start(worker.consumer(read_model("users")));
    patiently("it handles the first", running.caught_up())
        .await
        .unwrap();
    let mut tx = db.store.begin().await.unwrap();
    db.append_in(&mut tx, "open").await;
    db.append_many(20).await;
    // Where a poll itself takes that long, the worker is silent in between.
    until("the frontier is blocked, and nothing else", async || {
        let health = running.health();
        let is_blocked = matches!(
            &health.problems[..],
            [HealthProblem::FrontierBlocked(wait)] if wait.position == 1
        );
        let says_so = health.to_string().contains("the frontier has waited at 1");
        is_blocked && says_so && health.is_live() && health.is_ready()
    })
    .await;
    tx.rollback().await.unwrap();
    patiently("it handles the others", running.caught_up())
        .await
        .unwrap();
    until("all is well", async || running.health().problems.is_empty()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_checkpoint_taken_over_beyond_a_gap_is_warned_of() {
    keep_log();
    let db = Database::<Postgres>::fresh().await;
    db.append("User", ["a", "b"]).await;
    let mut tx = db.store.begin().await.unwrap();
    let late = db.append_in(&mut tx, "late").await;
    let last = db.append("User", ["c", "d"]).await[1];
    for (name, position) in [("taken_over", last), ("careful", late - 1)] {
        db.execute(&format!(
            "INSERT INTO consumer_progress (consumer, version, slice_from, slice_to, position)
             VALUES ('{name}', 1, 0, 1024, {position})"
        ))
        .await;
    }
    let worker = db.worker().consumer(read_model("taken_over"));
    let running = Running::start(worker.consumer(read_model("careful")));
    until("the frontier waits", async || {
        running.frontier_wait().is_some()
    })
    .await;
    let positions = format!("at positions {late} to {last}");
    assert_eq!(logged(&["WARN", "`taken_over`", &positions]).len(), 1);
    assert_eq!(logged(&["WARN", "`careful`", "positions"]), [""; 0]);
    tx.rollback().await.unwrap();
    running.stop().await;
}

// Rows that cannot be decoded

test_on!(
    [sqlite, postgres],
    an_unreadable_row_concerns_no_consumer_outside_its_scope,
    an_unreadable_row_stops_a_consumer_until_it_is_corrected,
    an_unreadable_row_is_skipped_or_parked_as_the_policy_says,
    a_retry_leaves_unreadable_events_parked_and_handles_others,
    commands_know_a_parked_event_that_is_unreadable,
    an_operator_parks_an_unreadable_event,
    a_row_that_is_corrected_between_attempts_is_handled
);

/// Makes the row at a position one that cannot be decoded.
async fn damage<DB: TestDatabase>(db: &Database<DB>, position: i64) {
    let damage = if DB::NAME == Postgres::NAME {
        "created_at = 'infinity'"
    } else {
        "event_id = 'not a UUID'"
    };
    update(db, damage, position).await;
}

async fn correct<DB: TestDatabase>(db: &Database<DB>, position: i64) {
    let correct = if DB::NAME == Postgres::NAME {
        "created_at = now()"
    } else {
        "event_id = '00000000-0000-0000-0000-000000000001'"
    };
    update(db, correct, position).await;
}

async fn update<DB: TestDatabase>(db: &Database<DB>, set: &str, position: i64) {
    let update = format!("UPDATE events SET {set} WHERE global_position = {position}");
    db.execute(&update).await;
}

fn with_policy(on_error: OnError) -> Settings {
    impatient().retries(1).on_error(on_error)
}

/// The state of the consumer `users`.
fn state(report: &Report) -> ConsumerState {
    report.consumer("users").unwrap().state.clone()
}

async fn an_unreadable_row_concerns_no_consumer_outside_its_scope<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users = db.append("User", ["a", "b"]).await;
    let broken = db.append_one("Order", "broken").await;
    let later = db.append_one("User", "c").await;
    damage(&db, broken).await;
    let worker = db
        .worker()
        .scoped_consumer(read_model("users").scope(&["User"]))
        .consumer(read_model("all").settings(with_policy(OnError::Stop)));
    let report = run_once(worker).await;
    assert_eq!(state(&report), ConsumerState::CaughtUp);
    assert_eq!(db.applied("users").await, [users[0], users[1], later]);
    assert_eq!(db.applied("all").await, users, "up to the row");
}

async fn an_unreadable_row_stops_a_consumer_until_it_is_corrected<DB: TestDatabase>(
    db: Database<DB>,
) {
    keep_log();
    let positions = db.append("User", ["a", "broken-alone", "c"]).await;
    damage(&db, positions[1]).await;
    let users = || read_model("users").settings(with_policy(OnError::Stop));
    let report = db.run_once(users()).await;
    let ConsumerState::Stopped { position, error } = state(&report) else {
        panic!("{report}");
    };
    assert_eq!(position, Some(positions[1]));
    assert!(error.contains("cannot be decoded"), "{error}");
    let failed = logged(&["the handler failed", "broken-alone"]);
    assert!(!failed.is_empty());
    for line in failed {
        assert!(line.contains("event_type=\"Changed\""), "{line}");
    }
    assert_eq!(db.applied("users").await, positions[..1]);
    correct(&db, positions[1]).await;
    assert_eq!(state(&db.run_once(users()).await), ConsumerState::CaughtUp);
    assert_eq!(db.applied("users").await, positions);
}

async fn an_unreadable_row_is_skipped_or_parked_as_the_policy_says<DB: TestDatabase>(
    db: Database<DB>,
) {
    let positions = db.append("User", ["a", "broken", "broken", "c"]).await;
    damage(&db, positions[1]).await;
    let worker = db
        .worker()
        .consumer(read_model("skips").settings(with_policy(OnError::Skip)))
        .consumer(read_model("parks").settings(with_policy(OnError::Park)));
    let report = run_once(worker).await;
    assert!(!report.has_failures(), "{report}");
    let [first, broken, same, last] = positions[..] else {
        panic!("{positions:?}");
    };
    assert_eq!(db.applied("skips").await, [first, same, last]);
    assert_eq!(db.applied("parks").await, [first, last]);
    assert_eq!(
        db.parked("parks").await,
        [broken, same],
        "with its aggregate"
    );
}

/// Parks two events of `broken`, of which the second is unreadable, and one of `other`.
async fn parked_with_an_unreadable<DB: TestDatabase>(db: &Database<DB>) -> (Admin<DB>, Vec<i64>) {
    let model =
        Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
    model.fail_on("broken", true);
    model.fail_on("other", true);
    let positions = db.append("User", ["broken", "broken", "other", "c"]).await;
    let worker = || db.worker().scoped_consumer(model.clone());
    run_once(worker()).await;
    model.fail_on("broken", false);
    model.fail_on("other", false);
    damage(db, positions[1]).await;
    assert_eq!(db.parked("users").await, positions[..3]);
    (worker().admin().unwrap(), positions)
}

async fn a_retry_leaves_unreadable_events_parked_and_handles_others<DB: TestDatabase>(
    db: Database<DB>,
) {
    let (admin, positions) = parked_with_an_unreadable(&db).await;
    let retried = admin.retry_parked("users", None).await.unwrap();
    assert_eq!(retried.handled, 1, "{retried:?}");
    let [AdminError::Retry { position, source }] = &retried.failed[..] else {
        panic!("{retried:?}");
    };
    assert_eq!(*position, positions[1]);
    assert!(source.to_string().contains("cannot be decoded"), "{source}");
    assert_eq!(db.parked("users").await, positions[..2]);
    let parked = admin.parked("users").await.unwrap();
    let reason = parked[1].error.clone().unwrap();
    assert!(
        parked[1].has_failed && reason.contains("cannot be decoded"),
        "{reason}"
    );
    // With its row corrected, the aggregate is handled in order.
    correct(&db, positions[1]).await;
    let retried = admin.retry_parked("users", None).await.unwrap();
    assert_eq!(
        (retried.handled, retried.failed.len()),
        (2, 0),
        "{retried:?}"
    );
    assert_eq!(db.applied("users").await[2..], positions[..2]);
}

async fn commands_know_a_parked_event_that_is_unreadable<DB: TestDatabase>(db: Database<DB>) {
    let (admin, positions) = parked_with_an_unreadable(&db).await;
    let (parked, event) = admin.parked_event("users", positions[1]).await.unwrap();
    assert_eq!(
        (parked.position, &*parked.aggregate_id),
        (positions[1], "broken")
    );
    assert_eq!(event, None);
    admin.skip_parked("users", positions[1]).await.unwrap();
    assert_eq!(db.parked("users").await, [positions[0], positions[2]]);
}

async fn an_operator_parks_an_unreadable_event<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "broken", "broken", "c"]).await;
    damage(&db, positions[1]).await;
    // A second segment, which has events of its own before the one that is parked.
    let users = || Model::new("users").settings(with_policy(OnError::Stop).segments(2));
    run_once(db.worker().scoped_consumer(users())).await;
    let admin = Admin::new(db.store.clone());
    admin.park("users", positions[1]).await.unwrap();
    let report = run_once(db.worker().scoped_consumer(users())).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(
        db.parked("users").await,
        positions[1..3],
        "with its aggregate"
    );
}

async fn a_row_that_is_corrected_between_attempts_is_handled<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "broken", "c"]).await;
    damage(&db, positions[1]).await;
    let patient = impatient().retries(u32::MAX);
    let running = Running::start(db.worker().consumer(read_model("users").settings(patient)));
    until("it has tried", async || {
        let state = &running.consumers()[0].state;
        matches!(state, ConsumerState::Retrying { attempts, .. } if *attempts > 1)
    })
    .await;
    correct(&db, positions[1]).await;
    patiently("it handles the row", running.caught_up())
        .await
        .unwrap();
    running.stop().await;
    assert_eq!(db.applied("users").await, positions);
}
