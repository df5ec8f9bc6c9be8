//! A database, and the workers, writers and operators of a history on it.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use consumer::admin::{ActivateOptions, Admin, AdminError, ForgetOptions, RebuildOptions, Target};
use consumer::{ConsumerState, EventStore, ExpectedVersion, NewEvent, Worker, WorkerBuilder};
use sqlx::{Connection as _, Pool, Postgres, Row as _, Sqlite};

use super::model::{Id, Logged, Model, Observed, Row, Verdict, Work, known};
use super::scripted::{NAMES, Scripted, ScriptedConsumer, World, is_transactional};
use super::step::{Append, CONSUMERS, Crash, Damage, End, Release, Script, Step};
use crate::{Database, Running, TestDatabase};

/// A database that histories can be played on.
pub trait HistoryBackend: TestDatabase {
    /// How a handler names a table whatever its `search_path` is.
    const HOME: &'static str;

    /// Moves the `search_path` of a transaction, where there is such a thing.
    fn move_search_path(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Reads a row of a table that steps alter, by a statement that stays prepared.
    fn peek(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The URL of a database for the connections of that name.
    fn named(url: &str, name: &str) -> String;

    /// Ends the connections of that name.
    fn end_connections(pool: &Pool<Self>, name: &str) -> impl Future<Output = ()> + Send;

    /// Waits until the server has noticed that the connections of that name are gone.
    fn gone(pool: &Pool<Self>, name: &str) -> impl Future<Output = ()> + Send;

    /// Whether an idle connection of the pool is in a transaction.
    fn is_left_open(pool: &Pool<Self>) -> impl Future<Output = bool> + Send;
}

impl HistoryBackend for Sqlite {
    const HOME: &'static str = "";

    async fn move_search_path(_: &mut Self::Connection) -> Result<(), sqlx::Error> {
        Ok(())
    }

    async fn peek(connection: &mut Self::Connection) -> Result<(), sqlx::Error> {
        let peek = sqlx::query("SELECT * FROM history_parent");
        peek.fetch_optional(connection).await.map(drop)
    }

    fn named(url: &str, _: &str) -> String {
        url.to_owned()
    }

    async fn end_connections(_: &Pool<Self>, _: &str) {}

    async fn gone(pool: &Pool<Self>, _: &str) {
        // A commit that is under way holds the lock that this waits for.
        let tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
        tx.commit().await.expect("commit");
    }

    async fn is_left_open(pool: &Pool<Self>) -> bool {
        let mut idle = Vec::new();
        while let Some(mut connection) = pool.try_acquire() {
            // Within a transaction there cannot be another.
            if Self::execute_sql(&mut connection, "BEGIN; ROLLBACK")
                .await
                .is_err()
            {
                return true;
            }
            idle.push(connection);
        }
        false
    }
}

impl HistoryBackend for Postgres {
    const HOME: &'static str = "public.";

    async fn move_search_path(connection: &mut Self::Connection) -> Result<(), sqlx::Error> {
        Self::execute_sql(connection, "SET LOCAL search_path = history_tenant").await
    }

    async fn peek(connection: &mut Self::Connection) -> Result<(), sqlx::Error> {
        let peek = sqlx::query("SELECT * FROM public.history_parent");
        peek.fetch_optional(connection).await.map(drop)
    }

    fn named(url: &str, name: &str) -> String {
        format!("{url}?application_name={name}")
    }

    async fn end_connections(pool: &Pool<Self>, name: &str) {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE application_name = '{name}'"
        );
        let mut connection = pool.acquire().await.expect("a connection");
        let ended = Self::execute_sql(&mut connection, &sql).await;
        ended.expect("end the connections");
    }

    async fn gone(pool: &Pool<Self>, name: &str) {
        let sql =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
        let mut connection = pool.acquire().await.expect("a connection");
        crate::patiently("a worker's connections are gone", async {
            loop {
                let left = Self::numbers(&mut connection, &sql).await;
                if left.expect("count the connections") == [0] {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn is_left_open(pool: &Pool<Self>) -> bool {
        let mut idle = Vec::new();
        let mut open = false;
        while let Some(mut connection) = pool.try_acquire() {
            // Equal in a transaction of this one message alone.
            let sql = "SELECT now() = statement_timestamp()";
            let row = sqlx::raw_sql(sql).fetch_one(&mut *connection).await;
            let is_alone = row.is_ok_and(|row| row.get(0));
            open |= !is_alone;
            idle.push(connection);
        }
        open
    }
}

/// Makes a row of SQLite's log one that cannot be decoded.
const SPOIL: &str = "UPDATE events SET event_id = 'no id ' || event_id WHERE global_position = ";
/// Restores such a row.
const UNSPOIL: &str =
    "UPDATE events SET event_id = replace(event_id, 'no id ', '') WHERE global_position = ";

/// A transaction beside the worker.
enum Writer<DB: HistoryBackend> {
    Open(DB::Connection, Vec<i64>),
    Prepared(String, Vec<i64>),
}

impl<DB: HistoryBackend> Writer<DB> {
    fn positions(&self) -> &[i64] {
        match self {
            Self::Open(_, positions) | Self::Prepared(_, positions) => positions,
        }
    }
}

/// How long a worker may take for a step.
const PATIENCE: Duration = Duration::from_secs(10);

/// A database with the workers, writers and operators of one history.
pub(super) struct Stage<DB: HistoryBackend> {
    database: Database<DB>,
    world: Arc<World>,
    model: Model,
    /// The releases of each consumer, the newest last.
    releases: Vec<Vec<Release>>,
    writers: Vec<Writer<DB>>,
    /// Positions that were committed, as the store said.
    promised: BTreeSet<i64>,
    /// Positions that were rolled back.
    void: BTreeSet<i64>,
    count: usize,
}

impl<DB: HistoryBackend> Stage<DB> {
    /// An empty database.
    pub(super) async fn set() -> Self {
        let database = Database::<DB>::fresh().await;
        let key = if DB::HOME.is_empty() {
            "INTEGER PRIMARY KEY AUTOINCREMENT"
        } else {
            "BIGSERIAL PRIMARY KEY"
        };
        database
            .execute(&format!(
                "CREATE TABLE history_applied (ordinal {key}, consumer TEXT NOT NULL,
                                               version INTEGER NOT NULL, position BIGINT NOT NULL);
                 CREATE TABLE history_parent (id INTEGER PRIMARY KEY);
                 CREATE TABLE history_child (parent INTEGER NOT NULL REFERENCES history_parent (id)
                                             DEFERRABLE INITIALLY DEFERRED);"
            ))
            .await;
        if !DB::HOME.is_empty() {
            // A tenant's schema may have tables of the same names.
            let tenant = "CREATE SCHEMA history_tenant;
                CREATE TABLE history_tenant.consumer_progress (LIKE public.consumer_progress);
                CREATE TABLE history_tenant.consumer_parked (LIKE public.consumer_parked);";
            database.execute(tenant).await;
        }
        Self {
            database,
            world: Arc::default(),
            model: Model::default(),
            releases: vec![Vec::new(); CONSUMERS],
            writers: Vec::new(),
            promised: BTreeSet::new(),
            void: BTreeSet::new(),
            count: 0,
        }
    }

    /// Takes a step and compares with the model.
    pub(super) async fn take(&mut self, step: &Step) -> Verdict {
        self.count += 1;
        match step {
            Step::Run => return self.run().await,
            Step::CrashAfter(calls, crash) => return self.crash_after(*calls, *crash).await,
            Step::Beside(step) => return self.beside(step).await,
            Step::Merge(consumer) => return self.merge(*consumer).await,
            step => self.act(step).await?,
        }
        let seen = self.look().await?;
        self.model.observe(seen)
    }

    /// Takes a step that runs no worker.
    async fn act(&mut self, step: &Step) -> Verdict {
        match step {
            Step::Append(how, aggregate, scripts) => self.append(*how, *aggregate, scripts).await?,
            Step::Open(scripts) => self.open(scripts).await,
            Step::End(end, which) => self.end(*end, *which).await,
            Step::Deploy(consumer, release, beside) => self.deploy(*consumer, release, *beside),
            Step::Pause(consumer) => self.pause(*consumer).await?,
            Step::Resume(consumer) => self.resume(self.newest(*consumer)).await?,
            Step::Rebuild(consumer, discard) => {
                self.rebuild(self.newest(*consumer), *discard).await?;
            }
            Step::RetryParked(consumer) => self.retry_parked(self.newest(*consumer)).await?,
            Step::SkipParked(consumer, which) => {
                self.skip_parked(self.newest(*consumer), *which).await?;
            }
            Step::AcceptScope(consumer) => self.accept_scope(self.newest(*consumer)).await?,
            Step::Activate(consumer) => self.activate(*consumer).await,
            Step::Forget(consumer) => self.forget_oldest(*consumer).await?,
            Step::Restart(consumer) => self.restart(*consumer).await?,
            Step::Repair(which) => self.repair(*which).await,
            Step::Archive(keep) => self.archive(*keep).await,
            Step::Alter => self.alter().await,
            Step::Damage(damage) => self.damage(*damage).await,
            Step::Run | Step::CrashAfter(..) | Step::Beside(_) | Step::Merge(_) => {}
        }
        Ok(())
    }

    /// Takes a step beside an idle worker, and waits until that worker has caught up.
    async fn beside(&mut self, step: &Step) -> Verdict {
        let code = self.code();
        if code.is_empty() {
            return Ok(());
        }
        let mut work = self.begin(&code, Some(self.settled()));
        let worker = Running::start(self.builder(self.database.store.clone(), &code));
        self.until_reached(&worker, &work).await?;
        work.keeps_running = true;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)?;
        let mut work = self.begin(&code, None);
        self.act(step).await?;
        let seen = self.look().await?;
        work.target = Some(self.settled_in(&seen));
        self.until_reached(&worker, &work).await?;
        worker.stop().await;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)
    }

    /// Repairs everything and lets everything that is left be handled.
    pub(super) async fn drain(&mut self) -> Verdict {
        while !self.writers.is_empty() {
            self.end(End::Commit, 0).await;
        }
        let seen = self.look().await?;
        self.model.observe(seen)?;
        for position in self.model.broken() {
            self.repair_at(position).await;
        }
        let code = self.code();
        let ids: Vec<Id> = code
            .iter()
            .map(|(name, one)| (*name, one.version))
            .collect();
        // Events behind parked ones need a turn of their own.
        for _ in 0..4 {
            for id in &ids {
                self.let_go(*id).await?;
            }
            self.run().await?;
            if self.model.is_drained(&code).is_ok() {
                break;
            }
        }
        self.model.is_drained(&self.code())
    }

    /// Does what an operator does for a consumer that does not run, or not with all its events.
    async fn let_go(&mut self, id: Id) -> Verdict {
        let seen = self.model.seen();
        let barred = |row: &Row| row.state != "running" || !row.scope.is_empty();
        if seen.rows_of(id).any(barred) {
            self.accept_scope(Some(id)).await?;
            self.resume(Some(id)).await?;
        }
        if !self.model.parked(id).is_empty() {
            self.retry_parked(Some(id)).await?;
        }
        let seen = self.look().await?;
        self.model.observe(seen)
    }

    async fn append(&mut self, how: Append, aggregate: usize, scripts: &[Script]) -> Verdict {
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
                drop_after(polls, store.append(ExpectedVersion::Any, &events)).await;
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
        for (position, script) in positions.iter().zip(scripts) {
            if *script == Script::Unreadable {
                DB::execute_sql(&mut tx, &format!("{SPOIL}{position}")).await?;
            }
        }
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
            if began.elapsed() > PATIENCE {
                return Err("a dropped append keeps a connection of the pool".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if DB::is_left_open(pool).await {
            return Err("a dropped append left a transaction open in the pool".to_owned());
        }
        Ok(())
    }

    async fn open(&mut self, scripts: &[Script]) {
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
        let positions = stored.iter().map(|event| event.global_position).collect();
        self.writers.push(Writer::Open(connection, positions));
    }

    async fn end(&mut self, end: End, which: usize) {
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

    fn deploy(&mut self, consumer: usize, release: &Release, beside: bool) {
        let Some(releases) = self.releases.get_mut(consumer) else {
            return;
        };
        let before = releases.pop();
        releases.clear();
        releases.extend(before.filter(|before| beside && before.version != release.version));
        releases.push(release.clone());
    }

    /// The releases that a worker started now runs.
    fn code(&self) -> Vec<(&'static str, Release)> {
        let all = NAMES.into_iter().zip(&self.releases);
        all.flat_map(|(name, releases)| releases.iter().map(move |one| (name, one.clone())))
            .collect()
    }

    fn builder(
        &self,
        store: EventStore<DB>,
        code: &[(&'static str, Release)],
    ) -> WorkerBuilder<DB> {
        let builder = Worker::builder(store)
            .poll_interval(Duration::from_millis(2))
            .snapshot_interval(Duration::from_millis(2))
            .advance_interval(Duration::from_millis(20))
            // A thread for each run would be most of the time that a history takes.
            .lanes_on_one_core(false);
        code.iter().fold(builder, |builder, (name, release)| {
            builder.registered(ScriptedConsumer::registered(name, release, &self.world))
        })
    }

    /// The end of what a worker can handle now. An open transaction may still fill any gap
    /// that is not settled, as far as the server tells.
    fn settled(&self) -> i64 {
        self.settled_in(self.model.seen())
    }

    fn settled_in(&self, seen: &Observed) -> i64 {
        let last = seen.log.keys().next_back().copied().unwrap_or(0);
        if self.writers.is_empty() {
            return last;
        }
        let is_gap = |position: &i64| !seen.log.contains_key(position);
        let gap = (seen.frontier + 1..=last).find(is_gap);
        gap.map_or(last, |gap| gap - 1)
    }

    fn begin<'a>(&self, releases: &'a [(&'static str, Release)], target: Option<i64>) -> Work<'a> {
        let mut outside = self.world.outside.lock().unwrap();
        outside.calls.clear();
        Work {
            releases,
            target,
            settled: self.settled(),
            has_writers: !self.writers.is_empty(),
            calls: Vec::new(),
            effects: Vec::new(),
            may_lose_effects: false,
            keeps_running: false,
        }
    }

    fn end_of(&self, work: &mut Work<'_>) {
        let mut outside = self.world.outside.lock().unwrap();
        work.calls = std::mem::take(&mut outside.calls);
        work.effects = std::mem::take(&mut outside.effects);
    }

    async fn run(&mut self) -> Verdict {
        let code = self.code();
        if code.is_empty() {
            return Ok(());
        }
        let mut work = self.begin(&code, Some(self.settled()));
        let store = self.database.store.clone();
        let builder = self.builder(store, &code);
        if self.writers.is_empty() {
            let run = builder
                .build()
                .map_err(|error| error.to_string())?
                .run_once();
            let report = tokio::time::timeout(PATIENCE, run).await;
            report
                .map_err(|_| {
                    format!(
                        "stuck: the worker did not end: {:?}",
                        self.model.seen().rows
                    )
                })?
                .map_err(|error| format!("the worker ended: {error}"))?;
        } else {
            let worker = Running::start(builder);
            self.until_reached(&worker, &work).await?;
            worker.stop().await;
        }
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)
    }

    /// Waits until a running worker has handled what is settled.
    async fn until_reached(&self, worker: &Running<DB>, work: &Work<'_>) -> Verdict {
        // Until it has begun, the rows are as the worker before it left them.
        let has_begun = async || {
            let consumers = worker.consumers();
            consumers
                .iter()
                .all(|one| one.state != ConsumerState::Starting)
        };
        crate::until("the worker begins", has_begun).await;
        let began = Instant::now();
        loop {
            let seen = self.look().await?;
            let reached = self.model.is_reached(work, &seen);
            if reached.is_ok() || began.elapsed() > PATIENCE {
                return reached;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    async fn crash_after(&mut self, calls: usize, crash: Crash) -> Verdict {
        let code = self.code();
        if code.is_empty() {
            return Ok(());
        }
        let is_terminated = crash == Crash::Terminate && !DB::HOME.is_empty();
        let mut work = self.begin(&code, is_terminated.then(|| self.settled()));
        work.may_lose_effects = true;
        let name = format!("history_{}", self.count);
        let url = DB::named(&self.database.url, &name);
        let store = EventStore::<DB>::connect(&url).await.expect("connect");
        let pool = store.pool().clone();
        self.world.set_fuse(calls);
        let worker = Running::start(self.builder(store, &code));
        tokio::select! {
            () = self.world.crash.notified() => {}
            reached = self.until_enough(&worker, &work) => reached?,
        }
        self.world.set_fuse(0);
        if is_terminated {
            DB::end_connections(&self.database.pool, &name).await;
            self.until_reached(&worker, &work).await?;
        }
        worker.abort().await;
        crate::until("the lanes are gone", async || {
            Arc::strong_count(&self.world) < 2
        })
        .await;
        crate::patiently("the pool closes", pool.close()).await;
        DB::gone(&self.database.pool, &name).await;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)
    }

    /// Waits until there is nothing left to crash in.
    async fn until_enough(&self, worker: &Running<DB>, work: &Work<'_>) -> Verdict {
        let all = Work {
            releases: work.releases,
            target: Some(work.settled),
            calls: Vec::new(),
            effects: Vec::new(),
            ..*work
        };
        self.until_reached(worker, &all).await
    }

    async fn merge(&mut self, consumer: usize) -> Verdict {
        let mut code = self.code();
        let name = NAMES[consumer % CONSUMERS];
        for (_, release) in code.iter_mut().filter(|one| one.0 == name) {
            release.segments = 1;
        }
        let Some((_, release)) = code.iter().rfind(|one| one.0 == name) else {
            return Ok(());
        };
        let id = (name, release.version);
        let mut work = self.begin(&code, Some(self.settled()));
        let store = self.database.store.clone();
        let worker = Running::start(self.builder(store.clone(), &code));
        self.until_reached(&worker, &work).await?;
        let seen = self.look().await?;
        // Only rows that run can be merged.
        if seen.rows_of(id).all(|row| row.state == "running") {
            let merge = consumer::merge_segments(&store, name, id.1, 1);
            // While the frontier waits, idle rows may not reach one position.
            let patience = if self.writers.is_empty() {
                PATIENCE * 3
            } else {
                PATIENCE / 10
            };
            match tokio::time::timeout(patience, merge).await {
                Ok(merged) => merged.map_err(|error| format!("merging {id:?}: {error}"))?,
                Err(_) if !self.writers.is_empty() => {}
                Err(_) => return Err(format!("stuck: merging {id:?}: {:?}", seen.rows)),
            }
        }
        worker.stop().await;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)
    }

    /// The newest version of a consumer.
    fn newest(&self, consumer: usize) -> Option<Id> {
        let release = self.releases.get(consumer)?.last()?;
        Some((*NAMES.get(consumer)?, release.version))
    }

    /// An operator with the code, if the version has a checkpoint.
    fn operator(&self, id: Option<Id>) -> Option<(Admin<DB>, Id, Release)> {
        let code = self.code();
        let id = id.filter(|id| self.model.is_enrolled(*id))?;
        let release = code
            .iter()
            .find(|(name, release)| (*name, release.version) == id)
            .map(|(_, release)| release.clone())?;
        let admin = self.builder(self.database.store.clone(), &code).admin();
        Some((admin.expect("the consumers fit together"), id, release))
    }

    async fn pause(&mut self, consumer: usize) -> Verdict {
        // One that never ran gets its checkpoint.
        if let Some(release) = self.releases.get(consumer).and_then(|all| all.last()) {
            self.model.enroll(NAMES[consumer], release, self.settled());
        }
        let Some((admin, id, _)) = self.operator(self.newest(consumer)) else {
            return Ok(());
        };
        allowed("pause", id, admin.pause(target(id)).await)
    }

    async fn resume(&mut self, id: Option<Id>) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        allowed("resume", id, admin.resume(target(id)).await)
    }

    async fn accept_scope(&mut self, id: Option<Id>) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        allowed("accept_scope", id, admin.accept_scope(target(id)).await)
    }

    async fn rebuild(&mut self, id: Option<Id>, discard: bool) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        let parked = self.model.parked(id).len();
        let mut options = RebuildOptions::new();
        if discard {
            options = options.discard_parked();
        }
        let rebuilt = admin.rebuild(target(id), options).await;
        match rebuilt {
            Err(AdminError::WouldDiscard { .. }) if parked > 0 && !discard => return Ok(()),
            Ok(_) if parked > 0 && !discard => {
                return Err(format!(
                    "a rebuild of {id:?} discarded {parked} events unasked"
                ));
            }
            rebuilt => allowed("rebuild", id, rebuilt)?,
        }
        self.model.rebuild(id);
        Ok(())
    }

    async fn retry_parked(&mut self, id: Option<Id>) -> Verdict {
        let Some((admin, id, release)) = self.operator(id) else {
            return Ok(());
        };
        let code = [(id.0, release)];
        let mut work = self.begin(&code, Some(0));
        let retried = tokio::time::timeout(PATIENCE, admin.retry_parked(target(id), None)).await;
        let retried = retried.map_err(|_| format!("stuck: retrying {id:?}"))?;
        allowed("retry_parked", id, retried)?;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.retried(id, &work, seen)
    }

    async fn skip_parked(&mut self, id: Option<Id>, which: usize) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        let parked = self.model.parked(id);
        let Some(position) = parked.get(which % parked.len().max(1)).copied() else {
            return Ok(());
        };
        allowed(
            "skip_parked",
            id,
            admin.skip_parked(target(id), position).await,
        )?;
        self.model.skip_parked(id, position);
        Ok(())
    }

    async fn activate(&mut self, consumer: usize) {
        if let Some((admin, id, _)) = self.operator(self.newest(consumer)) {
            // It may be behind; what matters is that nothing is lost either way.
            let _ = admin.activate(target(id), ActivateOptions::new()).await;
        }
    }

    async fn forget_oldest(&mut self, consumer: usize) -> Verdict {
        let rows = self.model.seen().rows.iter();
        let own = rows.filter(|row| NAMES.get(consumer) == Some(&row.id.0));
        match own.map(|row| row.id).min() {
            Some(id) => self.forget(id).await.map(drop),
            None => Ok(()),
        }
    }

    /// Forgets a version, and says whether that was not refused.
    async fn forget(&mut self, id: Id) -> Verdict<bool> {
        let parked = self.model.parked(id).len();
        let admin = Admin::new(self.database.store.clone());
        let forgotten = admin.forget(target(id), ForgetOptions::new().force()).await;
        if forgotten.is_err() {
            return Ok(false);
        }
        if parked > 0 {
            return Err(format!(
                "forgetting {id:?} dropped {parked} parked events unasked"
            ));
        }
        self.model.forget(id);
        let (name, version) = id;
        let sql = format!(
            "DELETE FROM history_applied WHERE consumer = '{name}' AND version = {version}"
        );
        self.database.execute(&sql).await;
        let mut outside = self.world.outside.lock().unwrap();
        outside.handled.retain(|row| (row.0, row.1) != id);
        Ok(true)
    }

    /// Forgets the newest version of a consumer, and makes its checkpoint anew.
    async fn restart(&mut self, consumer: usize) -> Verdict {
        let Some((_, id, _)) = self.operator(self.newest(consumer)) else {
            return Ok(());
        };
        if self.forget(id).await? {
            self.pause(consumer).await?;
            self.resume(Some(id)).await?;
        }
        Ok(())
    }

    async fn repair(&mut self, which: usize) {
        let broken = self.model.broken();
        if let Some(position) = broken.get(which % broken.len().max(1)) {
            self.repair_at(*position).await;
        }
    }

    async fn repair_at(&mut self, position: i64) {
        if self.model.script(position) == Some(Script::Unreadable) {
            self.database.execute(&format!("{UNSPOIL}{position}")).await;
        }
        self.model.repair(position);
        self.world.outside.lock().unwrap().repaired.insert(position);
    }

    async fn alter(&self) {
        let column = format!(
            "ALTER TABLE history_parent ADD COLUMN c_{} INTEGER",
            self.count
        );
        self.database.execute(&column).await;
    }

    async fn archive(&mut self, keep: usize) {
        let positions = self.model.archivable();
        let count = positions.len().saturating_sub(keep);
        for position in positions.iter().take(count) {
            let sql = format!("DELETE FROM events WHERE global_position = {position}");
            self.database.execute(&sql).await;
        }
        self.model.archive(&positions[..count]);
        for position in &positions[..count] {
            self.promised.remove(position);
        }
    }

    async fn damage(&mut self, damage: Damage) {
        let sql = match damage {
            Damage::RaiseCheckpoints => {
                "UPDATE consumer_progress
                    SET position = (SELECT max(global_position) FROM events)"
            }
            Damage::HandleTwice => {
                "INSERT INTO history_applied (consumer, version, position)
                 SELECT consumer, version, position FROM history_applied ORDER BY ordinal LIMIT 1"
            }
            Damage::DropParked => "DELETE FROM consumer_parked",
        };
        self.database.execute(sql).await;
    }

    /// What the database shows.
    async fn look(&self) -> Verdict<Observed> {
        let database = &self.database;
        let payload = if DB::HOME.is_empty() {
            "CAST(payload AS TEXT)"
        } else {
            "convert_from(payload, 'UTF8')"
        };
        let log = format!(
            "SELECT CAST(global_position AS TEXT) || '|' || aggregate_type || '|' || aggregate_id || '|' || {payload}
               FROM events"
        );
        let log = database.texts(&log);
        let rows = database.texts(
            "SELECT consumer || '|' || CAST(version AS TEXT) || '|' || CAST(slice_from AS TEXT) || '|'
                 || CAST(slice_to AS TEXT) || '|' || CAST(position AS TEXT) || '|' || state || '|' || scope
               FROM consumer_progress ORDER BY consumer, version, slice_from",
        );
        let parked = database.texts(
            "SELECT consumer || '|' || CAST(version AS TEXT) || '|' || CAST(position AS TEXT)
               FROM consumer_parked",
        );
        let applied = database.texts(
            "SELECT consumer || '|' || CAST(version AS TEXT) || '|' || CAST(position AS TEXT)
               FROM history_applied ORDER BY ordinal",
        );
        let frontier = database.numbers("SELECT COALESCE(max(settled), 0) FROM consumer_frontier");
        let mut seen = Observed {
            frontier: frontier.await[0],
            log: log.await.iter().map(|line| logged(line)).collect(),
            rows: rows.await.iter().map(|line| row(line)).collect(),
            parked: parked.await.iter().map(|line| positioned(line)).collect(),
            applied: applied.await.iter().map(|line| positioned(line)).collect(),
        };
        let mut handled = BTreeSet::new();
        for (name, version, position) in &self.world.outside.lock().unwrap().handled {
            // Redelivered after a failure (R5).
            if handled.insert((*name, *version, *position)) && !is_transactional(name) {
                seen.applied.push(((name, *version), *position));
            }
        }
        self.check_promises(&seen)?;
        Ok(seen)
    }

    /// Checks that the log has what was committed, and nothing that was rolled back.
    fn check_promises(&self, seen: &Observed) -> Verdict {
        if let Some(lost) = self.promised.iter().find(|at| !seen.log.contains_key(at)) {
            return Err(format!("event {lost} was appended, and is not in the log"));
        }
        // SQLite gives positions that were rolled back out again.
        let gives_again = DB::HOME.is_empty();
        match self.void.iter().find(|at| seen.log.contains_key(at)) {
            Some(void) if !gives_again => {
                Err(format!("event {void} was rolled back, and is in the log"))
            }
            _ => Ok(()),
        }
    }
}

/// A step that must not be refused.
fn allowed<T>(what: &str, id: Id, done: Result<T, AdminError>) -> Verdict {
    done.map(drop)
        .map_err(|error| format!("`{what}` of {id:?} failed: {error}"))
}

fn target(id: Id) -> Target {
    Target::new(id.0).version(id.1)
}

fn new_event(typed: bool, aggregate: usize, script: Script) -> NewEvent {
    let scripted = Scripted { script };
    let kind = if aggregate.is_multiple_of(2) {
        "Account"
    } else {
        "Order"
    };
    let id = format!("a-{aggregate}");
    if typed && kind == "Account" {
        return NewEvent::typed(&scripted).expect("JSON").of(id);
    }
    let payload = serde_json::to_string(&scripted).expect("JSON");
    NewEvent::new(kind, id, "Scripted", payload)
}

/// Polls a future a number of times, and drops it.
async fn drop_after<T>(polls: u32, future: impl Future<Output = T>) {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready()));
        if polled.await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn logged(line: &str) -> (i64, Logged) {
    let parts: Vec<&str> = line.splitn(4, '|').collect();
    let scripted: Scripted = serde_json::from_str(parts[3]).expect("a script");
    let logged = Logged {
        kind: parts[1].to_owned(),
        aggregate: parts[2].to_owned(),
        script: scripted.script,
    };
    (parts[0].parse().expect("a position"), logged)
}

fn row(line: &str) -> Row {
    let parts: Vec<&str> = line.splitn(7, '|').collect();
    let number = |at: usize| -> i64 { parts[at].parse().expect("a number") };
    let slice = |at: usize| u16::try_from(number(at)).expect("a slice");
    Row {
        id: (
            known(parts[0]),
            u32::try_from(number(1)).expect("a version"),
        ),
        slices: slice(2)..slice(3),
        position: number(4),
        state: parts[5].to_owned(),
        scope: parts[6]
            .split('\n')
            .filter(|kind| !kind.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}

fn positioned(line: &str) -> (Id, i64) {
    let parts: Vec<&str> = line.split('|').collect();
    let id = (known(parts[0]), parts[1].parse().expect("a version"));
    (id, parts[2].parse().expect("a position"))
}
