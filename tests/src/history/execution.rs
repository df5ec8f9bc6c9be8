//! A database, and the workers, writers and operators of a history on it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consumer::admin::Admin;
use consumer::{ConsumerState, EventStore, StartFrom, StoreError, Worker, WorkerBuilder};

use super::appending::Writer;
use super::backend::HistoryBackend;
use super::folded::{self, AS_TEXT, FOLD, VIEW};
use super::model::{Id, Logged, Model, Observed, Row, Tables, Verdict, Work, known};
use super::scripted::{Fuse, NAMES, Scripted, ScriptedConsumer, World};
use super::step::{CONSUMERS, Crash, Damage, End, Knowledge, Release, Script, Step};
use sqlx::Pool;

use crate::{Database, Running};

/// How long a worker may take for a step. Shorter times help to shrink histories that get stuck.
pub(super) fn timeout() -> Duration {
    Duration::from_secs(super::number("HISTORY_TIMEOUT").unwrap_or(30))
}

/// How long a process that died keeps other versions of a consumer without `tx` waiting, on SQLite.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than an operator takes to forget a consumer and to start it anew.
const SELDOM: Duration = Duration::from_millis(400);

/// A database with the workers, writers and operators of one history.
pub(super) struct Execution<'a, DB: HistoryBackend> {
    server: &'a DB::Server,
    pub(super) database: Database<DB>,
    pub(super) world: Arc<World>,
    pub(super) model: Model,
    /// The releases of each consumer, the newest last.
    pub(super) releases: Vec<Vec<Release>>,
    pub(super) writers: Vec<Writer<DB>>,
    /// Positions that were committed, as the store said.
    pub(super) promised: BTreeSet<i64>,
    /// Positions that were rolled back.
    pub(super) void: BTreeSet<i64>,
    pub(super) count: usize,
    /// Redacted in this step, in which a worker may still be handling what it had read before.
    redacted: Vec<i64>,
    /// Removed last.
    _files: DB::Files,
}

impl<'a, DB: HistoryBackend> Execution<'a, DB> {
    /// An empty database.
    pub(super) async fn new(server: &'a DB::Server) -> Self {
        let (database, files) = DB::database(server).await;
        Self {
            server,
            database,
            world: Arc::default(),
            model: Model::default(),
            releases: vec![Vec::new(); CONSUMERS],
            writers: Vec::new(),
            promised: BTreeSet::new(),
            void: BTreeSet::new(),
            count: 0,
            redacted: Vec::new(),
            _files: files,
        }
    }

    /// Takes a step and compares with the model.
    pub(super) async fn take(&mut self, step: &Step) -> Verdict {
        self.count += 1;
        self.world.forbid_old_payloads(self.redacted.drain(..));
        match step {
            Step::Run => return self.run().await,
            Step::Together(consumer, release) => return self.together(*consumer, release).await,
            Step::CrashAfter(calls, crash) => return self.crash_after(*calls, *crash).await,
            Step::RetryAmid(consumer, calls) => return self.retry_amid(*consumer, *calls).await,
            Step::Beside(steps) => return self.beside(steps).await,
            Step::Lose(which) => return self.lose(*which).await,
            step => self.act(step).await?,
        }
        let seen = self.look().await?;
        self.model.observe(seen)
    }

    /// Takes a step that runs no worker, except for a merge.
    async fn act(&mut self, step: &Step) -> Verdict {
        match step {
            Step::Append(how, aggregate, scripts) => self.append(*how, *aggregate, scripts).await?,
            Step::Open(scripts) => self.open(scripts).await,
            Step::End(end, which) => self.end(*end, *which).await,
            Step::Deploy(consumer, release, beside) => self.deploy(*consumer, release, *beside),
            Step::Command(command, consumer, which) => {
                self.command(*command, *consumer, *which).await?;
            }
            Step::Restart(consumer) => self.restart(*consumer).await?,
            Step::RestartServer => self.restart_server().await,
            Step::Repair(which) => self.repair(*which).await,
            Step::Redact(which) => self.redact(*which, false).await?,
            Step::Archive(keep) => self.archive(*keep).await,
            Step::Alter => self.alter().await,
            Step::Damage(damage) => self.damage(*damage).await,
            Step::Run
            | Step::Together(..)
            | Step::CrashAfter(..)
            | Step::RetryAmid(..)
            | Step::Lose(_)
            | Step::Beside(_) => {}
        }
        Ok(())
    }

    /// Takes steps beside an idle worker, and waits after each until that worker has caught up.
    async fn beside(&mut self, steps: &[Step]) -> Verdict {
        let code = self.code();
        if code.is_empty() {
            return Ok(());
        }
        let mut work = self.begin(&code, Some(self.settled()));
        let mut builder = self.builder(self.database.store.clone(), &code);
        if steps.iter().any(|step| matches!(step, Step::Restart(_))) {
            // No snapshot shows that the row was gone.
            builder = builder.snapshot_interval(SELDOM);
        }
        let worker = Running::start(builder);
        self.until_reached(&worker, &work).await?;
        work.keeps_running = true;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)?;
        let mut work = self.begin(&code, None);
        for step in steps {
            self.act(step).await?;
            let seen = self.look().await?;
            work.target = Some(self.settled_in(&seen));
            self.until_reached(&worker, &work).await?;
        }
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
        for release in self.releases.iter_mut().flatten() {
            if release.of_new != Knowledge::ToIgnore {
                release.of_new = Knowledge::BothVersions;
            }
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
        let code = self.code();
        let release = code
            .iter()
            .find(|(name, release)| (*name, release.version) == id);
        let is_unscoped = release.is_none_or(|(_, release)| release.scope.is_empty());
        // A scope may be another one whenever one of the two is not empty.
        let barred = |row: &Row| row.state != "running" || !row.scope.is_empty() || !is_unscoped;
        if seen.rows_of(id).any(barred) {
            self.accept_scope(Some(id)).await?;
            self.resume(Some(id)).await?;
        }
        if !self.model.parked(id).is_empty() {
            self.retry_parked(Some(id), 0).await?;
        }
        let seen = self.look().await?;
        self.model.observe(seen)
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
    pub(super) fn code(&self) -> Vec<(&'static str, Release)> {
        let all = NAMES.into_iter().zip(&self.releases);
        let all =
            all.flat_map(|(name, releases)| releases.iter().map(move |one| (name, one.clone())));
        let mut all: Vec<(&'static str, Release)> = all.collect();
        // A worker creates the checkpoints in this order.
        all.sort_by_key(|(name, one)| (NAMES.iter().position(|other| other == name), one.version));
        all
    }

    pub(super) fn builder(
        &self,
        store: EventStore<DB>,
        code: &[(&'static str, Release)],
    ) -> WorkerBuilder<DB> {
        let builder = Worker::builder(store)
            .poll_interval(Duration::from_millis(2))
            .snapshot_interval(Duration::from_millis(2))
            .advance_interval(Duration::from_millis(20))
            // A thread for each run would be most of the time that a history takes.
            .lanes_on_one_core(false)
            // Which may try what an earlier one has stopped at.
            .release(format!("release {}", self.count));
        // A server would end the transactions of a busy machine after so short a time.
        let builder = if DB::HOME.is_empty() {
            builder.claim_timeout(CLAIM_TIMEOUT)
        } else {
            builder
        };
        code.iter().fold(builder, |builder, (name, release)| {
            builder.registered(ScriptedConsumer::registered(name, release, &self.world))
        })
    }

    /// The end of what a worker can handle now. An open transaction may still fill any gap
    /// that is not settled, as far as the server tells.
    pub(super) fn settled(&self) -> i64 {
        self.settled_in(self.model.seen())
    }

    pub(super) fn settled_in(&self, seen: &Observed) -> i64 {
        let last = seen.log.keys().next_back().copied().unwrap_or(0);
        if self.writers.is_empty() {
            return last;
        }
        let is_gap = |position: &i64| !seen.log.contains_key(position);
        let gap = (seen.frontier + 1..=last).find(is_gap);
        gap.map_or(last, |gap| gap - 1)
    }

    pub(super) fn begin<'w>(
        &self,
        releases: &'w [(&'static str, Release)],
        target: Option<i64>,
    ) -> Work<'w> {
        let mut outside = self.world.outside.lock().unwrap();
        outside.calls.clear();
        outside.is_crashing = false;
        Work {
            releases,
            target,
            settled: self.settled(),
            has_writers: !self.writers.is_empty(),
            retried: None,
            calls: Vec::new(),
            effects: Vec::new(),
            may_lose_effects: false,
            keeps_running: false,
        }
    }

    pub(super) fn end_of(&self, work: &mut Work<'_>) {
        let mut outside = self.world.outside.lock().unwrap();
        work.calls = std::mem::take(&mut outside.calls);
        work.effects = std::mem::take(&mut outside.effects);
    }

    pub(super) async fn run(&mut self) -> Verdict {
        let code = self.code();
        if code.is_empty() {
            return Ok(());
        }
        let mut work = self.begin(&code, Some(self.settled()));
        let store = self.database.store.clone();
        let builder = self.builder(store, &code);
        if self.writers.is_empty() {
            self.run_to_the_end(builder).await?;
        } else {
            let worker = Running::start(builder);
            self.until_reached(&worker, &work).await?;
            worker.stop().await;
        }
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)
    }

    /// Runs a worker until nothing is left that it can handle.
    pub(super) async fn run_to_the_end(&self, builder: WorkerBuilder<DB>) -> Verdict {
        let worker = builder.build().map_err(|error| error.to_string())?;
        let report = tokio::time::timeout(timeout(), worker.run_once()).await;
        let report = report.map_err(|_| "stuck: the worker did not end".to_owned())?;
        report
            .map(drop)
            .map_err(|error| format!("the worker ended: {error}"))
    }

    /// Runs two workers at once: as a deploy under way has it, the second one has other code for one
    /// consumer.
    async fn together(&mut self, consumer: usize, release: &Release) -> Verdict {
        let code = self.code();
        let is_new =
            |(name, one): &(&'static str, Release)| !self.model.is_enrolled((*name, one.version));
        let Some(name) = NAMES.get(consumer).copied() else {
            return Ok(());
        };
        if code.is_empty() || code.iter().any(is_new) {
            // Which of two that start now comes first is open.
            return self.run().await;
        }
        let other = Release {
            start_from: StartFrom::Beginning,
            ..release.clone()
        };
        let mut others = code.clone();
        others.retain(|one| one.0 != name);
        others.push((name, other.clone()));
        let mut all = code.clone();
        all.push((name, other));
        let mut work = self.begin(&all, Some(self.settled()));
        let first = Running::start(self.builder(self.database.store.clone(), &code));
        // As in another process: a worker keeps most connections of its pool.
        let pool = self.another_pool();
        let store = EventStore::<DB>::new(pool.clone());
        let second = Running::start(self.builder(store, &others));
        self.until_reached(&first, &work).await?;
        self.until_reached(&second, &work).await?;
        first.stop().await;
        second.stop().await;
        crate::patiently("the pool closes", pool.close()).await;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)
    }

    /// A pool like that of the test.
    fn another_pool(&self) -> Pool<DB> {
        let pool = &self.database.pool;
        let options = pool.connect_options();
        pool.options()
            .clone()
            .connect_lazy_with(options.as_ref().clone())
    }

    /// Crashes the server between two steps.
    async fn restart_server(&mut self) {
        self.world.crash();
        DB::crash(self.server);
        self.lose_writers();
    }

    /// Waits until a running worker has handled what is settled.
    pub(super) async fn until_reached(&self, worker: &Running<DB>, work: &Work<'_>) -> Verdict {
        let began = Instant::now();
        // Until it has begun, the rows are as the worker before it left them.
        while has_to_begin(worker) {
            if began.elapsed() > timeout() {
                let health = worker.health();
                return Err(format!("stuck: the worker did not begin: {health}"));
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        loop {
            let seen = self.look().await?;
            let reached = self.model.is_reached(work, &seen);
            if reached.is_ok() || began.elapsed() > timeout() {
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
        let is_terminated = crash != Crash::Drop && !DB::HOME.is_empty();
        let mut work = self.begin(&code, is_terminated.then(|| self.settled()));
        work.may_lose_effects = true;
        self.world.crash();
        let name = format!("history_{}", self.count);
        let url = DB::named(&self.database.url, &name);
        let store = EventStore::<DB>::connect(&url).await.expect("connect");
        let pool = store.pool().clone();
        let fuse = self.world.set_fuse(Fuse::new(calls, None));
        let worker = Running::start(self.builder(store, &code));
        tokio::select! {
            () = fuse.ended() => {}
            reached = self.until_enough(&worker, &work) => reached?,
        }
        self.world.remove_fuse();
        if is_terminated {
            if crash == Crash::Server {
                self.restart_server().await;
                // What was open no longer is.
                work.target = Some(self.settled());
            } else {
                DB::end_connections(&self.database.pool, &name).await;
            }
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
    pub(super) async fn until_enough(&self, worker: &Running<DB>, work: &Work<'_>) -> Verdict {
        let all = Work {
            releases: work.releases,
            target: Some(work.settled),
            calls: Vec::new(),
            effects: Vec::new(),
            ..*work
        };
        self.until_reached(worker, &all).await
    }

    async fn repair(&mut self, which: usize) {
        let broken = self.model.broken();
        if let Some(position) = broken.get(which % broken.len().max(1)) {
            self.repair_at(*position).await;
        }
    }

    async fn repair_at(&mut self, position: i64) {
        if self.model.is_unreadable(position) {
            let restore = format!("{} WHERE global_position = {position}", DB::UNSPOIL);
            self.database.execute(&restore).await;
        }
        self.model.repair(position);
        self.world.outside.lock().unwrap().repaired.insert(position);
    }

    /// Gives a broken event a payload that succeeds, in a transaction or by a command.
    pub(super) async fn redact(&mut self, which: usize, by_command: bool) -> Verdict {
        let mut broken = self.model.broken();
        broken.retain(|position| !self.model.is_unreadable(*position));
        let Some(position) = broken.get(which % broken.len().max(1)).copied() else {
            return Ok(());
        };
        let scripted = Scripted {
            script: Script::Succeed,
        };
        let payload = serde_json::to_string(&scripted).expect("JSON");
        let store = self.database.store.clone();
        let redacted = if by_command {
            let redacted = Admin::new(store).redact(position, payload).await;
            redacted.map_err(|error| error.to_string())
        } else {
            redact_in_a_transaction(&store, position, payload).await
        };
        redacted.map_err(|error| format!("redacting {position}: {error}"))?;
        self.redacted.push(position);
        Ok(())
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
            Damage::DropRow => {
                "DELETE FROM history_totals_v1 WHERE id = (SELECT min(id) FROM history_totals_v1)"
            }
            Damage::PassUnknown => {
                "UPDATE consumer_progress SET position = unknown_position
                  WHERE unknown_position > position"
            }
            Damage::ActivateInSecret => {
                self.model.activate(FOLD, 2);
                "INSERT INTO consumer_active (consumer, version) VALUES ('totals', 2)
                 ON CONFLICT (consumer) DO UPDATE SET version = excluded.version"
            }
        };
        self.database.execute(sql).await;
    }

    /// What the database shows at one moment, however busy a worker is.
    pub(super) async fn look(&self) -> Verdict<Observed> {
        const MOST: usize = 100;
        for _ in 1..MOST {
            let seen = self.look_once().await?;
            // Otherwise an event may have been handled between two queries.
            if self.rows().await == seen.rows {
                return Ok(seen);
            }
        }
        self.look_once().await
    }

    pub(super) async fn rows(&self) -> Vec<Row> {
        let rows = self.database.texts(
            "SELECT consumer || '|' || CAST(version AS TEXT) || '|' || CAST(slice_from AS TEXT) || '|'
                 || CAST(slice_to AS TEXT) || '|' || CAST(position AS TEXT) || '|' || state || '|'
                 || CAST(COALESCE(failed_position, 0) AS TEXT) || '|'
                 || CAST(COALESCE(unknown_position, 0) AS TEXT) || '|' || scope
               FROM consumer_progress ORDER BY consumer, version, slice_from",
        );
        rows.await.iter().map(|line| row(line)).collect()
    }

    async fn look_once(&self) -> Verdict<Observed> {
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
        let rows = self.rows();
        let parked = database.texts(
            "SELECT consumer || '|' || CAST(version AS TEXT) || '|' || CAST(position AS TEXT)
               FROM consumer_parked",
        );
        let applied = database.texts(
            "SELECT consumer || '|' || CAST(version AS TEXT) || '|' || CAST(position AS TEXT)
               FROM history_applied ORDER BY ordinal",
        );
        let active = database
            .texts("SELECT consumer || '|' || CAST(version AS TEXT) || '|0' FROM consumer_active");
        let frontier = database.numbers("SELECT COALESCE(max(settled), 0) FROM consumer_frontier");
        let mut seen = Observed {
            frontier: frontier.await[0],
            log: log.await.iter().map(|line| logged(line)).collect(),
            rows: rows.await,
            parked: parked.await.iter().map(|line| positioned(line)).collect(),
            applied: applied.await.iter().map(|line| positioned(line)).collect(),
            before_rebuild: BTreeSet::new(),
            active: active.await.iter().map(|line| positioned(line).0).collect(),
            tables: self.tables().await,
        };
        for (version, rows) in &seen.tables.of_versions {
            seen.applied.extend(folded::events((FOLD, *version), rows)?);
        }
        let outside = self.world.outside.lock().unwrap();
        let mut handled = BTreeSet::new();
        for event in &outside.handled {
            if handled.insert(*event) || !outside.repeatable.contains(event) {
                let (name, version, position) = *event;
                let applied = ((name, version), position);
                seen.applied.push(applied);
                if outside.before_rebuild.contains(event) {
                    seen.before_rebuild.insert(applied);
                }
            }
        }
        drop(outside);
        self.check_promises(&seen)?;
        Ok(seen)
    }

    /// The tables and the view of the read model that the library keeps.
    pub(super) async fn tables(&self) -> Tables {
        let database = &self.database;
        let existing = database.texts(DB::READ_MODELS).await;
        let mut tables = Tables::default();
        for name in existing {
            let sql = format!("SELECT {AS_TEXT} FROM {name} ORDER BY id");
            let rows = database.texts(&sql).await;
            match name
                .strip_prefix(VIEW)
                .and_then(|end| end.strip_prefix("_v"))
            {
                Some(version) => {
                    let version = version.parse().expect("a version");
                    tables.of_versions.insert(version, rows);
                }
                None => tables.view = Some(rows),
            }
        }
        tables
    }

    /// Checks that the log has what was committed, and nothing that was rolled back, and that no consumer
    /// was given what had been redacted.
    fn check_promises(&self, seen: &Observed) -> Verdict {
        if let Some(leak) = self.world.leak() {
            return Err(format!("{leak} after it had been redacted"));
        }
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

/// Whether a worker has not seen all its checkpoints yet.
pub(super) fn has_to_begin<DB: HistoryBackend>(worker: &Running<DB>) -> bool {
    let consumers = worker.consumers();
    consumers
        .iter()
        .any(|one| one.state == ConsumerState::Starting)
}

async fn redact_in_a_transaction<DB: HistoryBackend>(
    store: &EventStore<DB>,
    position: i64,
    payload: String,
) -> Result<(), String> {
    let in_words = |error: StoreError| error.to_string();
    let mut tx = store.begin().await.map_err(in_words)?;
    let redacted = store.redact(&mut tx, position, payload).await;
    redacted.map_err(in_words)?;
    tx.commit().await.map_err(|error| error.to_string())
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
    let parts: Vec<&str> = line.splitn(9, '|').collect();
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
        failed_position: Some(number(6)).filter(|position| *position > 0),
        // A row that has passed it keeps it until it is saved.
        unknown_position: Some(number(7)).filter(|position| *position > number(4)),
        scope: parts[8]
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
