//! Workers in processes of their own, which tests kill, freeze and deploy.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use consumer::{
    ConsumerReport, ConsumerState, Event, EventFormat, EventStore, Formerly, HandlerError,
    LogProblem, OnError, PersistedEvent, Registered, Report, Settings, Worker, WorkerError,
};
use futures_util::FutureExt as _;
use sqlx::{Postgres, Sqlite};
use tokio::sync::watch;

use crate::samples::Samples;
use crate::{Database, TestConsumer, TestDatabase, consumer, impatient};

const URL: &str = "TEST_WORKER_URL";
const CONSUMERS: &str = "TEST_WORKER_CONSUMERS";
const GATE: &str = "TEST_WORKER_GATE";
const CLAIM_TIMEOUT: &str = "TEST_WORKER_CLAIM_TIMEOUT";
const BATCH_SIZE: &str = "TEST_WORKER_BATCH_SIZE";
const SEGMENTS: &str = "TEST_WORKER_SEGMENTS";
/// Printed once it handles signals.
const READY: &str = "ready";
/// The name of the consumer with a read model, [`Samples`].
const SAMPLES: &str = "samples";
/// The name of the consumer that a program may declare, with [`declare_accounts!`](crate::declare_accounts).
const BALANCES: &str = "balances";
const RESTARTS: &str = "TEST_WORKER_RESTARTS";
const FORMERLY: &str = "TEST_WORKER_FORMERLY";
const OUTSIDE: &str = "TEST_WORKER_OUTSIDE";

/// A worker in a process of its own; killed when this value goes.
pub struct WorkerProcess {
    child: Child,
    /// What it has said, until it is read.
    said: Option<ChildStdout>,
}

/// The settings of a worker's process that is yet to start.
pub struct WorkerCommand {
    command: Command,
}

/// Sends a process a signal, such as `STOP`, `CONT` or `TERM`.
pub fn signal(process: u32, name: &str) {
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(process.to_string())
        .status()
        .expect("run kill");
    assert!(status.success(), "kill -{name} failed");
}

impl WorkerProcess {
    /// A process of that program, one of those that call [`worker_main`], on this database.
    #[must_use]
    pub fn of<DB: TestDatabase>(program: &str, database: &Database<DB>) -> WorkerCommand {
        Self::at(program, &database.url)
    }

    /// The same on the database of that URL.
    #[must_use]
    pub fn at(program: &str, url: &str) -> WorkerCommand {
        let mut command = Command::new(program);
        command.env(URL, url).stdin(Stdio::null());
        WorkerCommand { command }
    }

    /// Ends it with SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        let ended = self.child.try_wait().expect("check the process");
        assert!(ended.is_none(), "the worker had ended by itself: {ended:?}");
        let _ = self.child.kill();
        self.child.wait().expect("wait for the process");
    }

    /// Waits until it handles signals: before it says so, one would kill it.
    pub fn wait_until_ready(&mut self) {
        if let Some(said) = self.said.take() {
            let first = BufReader::new(said).lines().next();
            assert_eq!(first.expect("a line").expect("read it"), READY);
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.child.try_wait().expect("check the process");
        ended.is_some()
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Asks it to end, waits for that, and returns whether it succeeded.
    #[must_use]
    pub fn terminate(mut self) -> bool {
        self.wait_until_ready();
        self.signal("TERM");
        self.wait().success()
    }

    /// Waits until it ends by itself, and returns whether it succeeded.
    #[must_use]
    pub fn ended(mut self) -> bool {
        self.wait().success()
    }

    fn wait(&mut self) -> ExitStatus {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the process") {
                return status;
            }
            let timeout = Duration::from_mins(1);
            assert!(asked.elapsed() < timeout, "the worker does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl WorkerCommand {
    /// Adds consumers to those of its program.
    #[must_use]
    pub fn consumers(mut self, names: &[&str]) -> Self {
        self.command.env(CONSUMERS, names.join(","));
        self
    }

    /// Makes its handlers wait, while they hold their claims, as long as that file exists.
    #[must_use]
    pub fn gate(mut self, file: &Path) -> Self {
        self.command.env(GATE, file);
        self
    }

    /// Sets the former name of one of its consumers.
    #[must_use]
    pub fn formerly(mut self, consumer: &str, former: &str) -> Self {
        self.command.env(FORMERLY, format!("{consumer}={former}"));
        self
    }

    /// Sets after what time a claim ends.
    #[must_use]
    pub fn claim_timeout(mut self, timeout: Duration) -> Self {
        self.command
            .env(CLAIM_TIMEOUT, timeout.as_millis().to_string());
        self
    }

    /// Sets how many events a transaction holds.
    #[must_use]
    pub fn batch_size(mut self, events: u32) -> Self {
        self.command.env(BATCH_SIZE, events.to_string());
        self
    }

    /// Sets as how many lanes each of its consumers may run.
    #[must_use]
    pub fn segments(mut self, segments: u32) -> Self {
        self.command.env(SEGMENTS, segments.to_string());
        self
    }

    /// Lets it start again when the database cannot be used at its start, which ends it otherwise;
    /// each time becomes a line of that file.
    #[must_use]
    pub fn restarts(mut self, file: &Path) -> Self {
        self.command.env(RESTARTS, file);
        self
    }

    /// Names the file that its consumer without `tx` writes into, if it has one.
    #[must_use]
    pub fn outside(mut self, file: &Path) -> Self {
        self.command.env(OUTSIDE, file);
        self
    }

    /// Starts it, and waits until it is ready.
    #[must_use]
    pub fn start(self) -> WorkerProcess {
        let mut process = self.spawn();
        process.wait_until_ready();
        process
    }

    /// Starts it.
    #[must_use]
    pub fn spawn(mut self) -> WorkerProcess {
        self.command.stdout(Stdio::piped());
        let mut child = self.command.spawn().expect("start the worker's process");
        let said = child.stdout.take();
        WorkerProcess { child, said }
    }
}

/// The code of a program: which events it knows, and how it reads one.
#[derive(Clone, Copy)]
struct Code {
    knows: fn(EventFormat<'_>) -> bool,
    read: fn(&PersistedEvent) -> Result<(), HandlerError>,
    /// Spares the program the reading of its executable.
    release: Option<&'static str>,
}

impl Code {
    /// Code that looks at no event.
    const UNTYPED: Self = Self {
        knows: |_| true,
        read: |_| Ok(()),
        release: Some("test worker"),
    };

    /// Code that decodes each event as an `E`.
    fn of<E: Event>() -> Self {
        Self {
            knows: |format| {
                E::EVENT_TYPES.contains(&format.event_type)
                    && E::reads(format.event_type, format.event_version)
            },
            read: |event| Ok(E::decode(event).map(drop)?),
            release: None,
        }
    }
}

/// What the program of a [`WorkerProcess`] does: it runs the named consumers, and those that it is
/// started with, until it is asked to end.
pub fn worker_main(names: &[&str]) {
    process_main(names, Code::UNTYPED, (None, None));
}

/// Like [`worker_main`], for a program that declares the consumer `balances` on each database.
pub fn declaring_main(on_sqlite: Declared<Sqlite>, on_postgres: Declared<Postgres>) {
    process_main(&[], Code::UNTYPED, (Some(on_sqlite), Some(on_postgres)));
}

/// Like [`worker_main`], with consumers that know only the events of `E`.
pub fn release_main<E: Event>(names: &[&str]) {
    process_main(names, Code::of::<E>(), (None, None));
}

/// Makes a consumer that a program declares.
type Declared<DB> = fn() -> Registered<DB>;

fn process_main(
    names: &[&str],
    code: Code,
    (on_sqlite, on_postgres): (Option<Declared<Sqlite>>, Option<Declared<Postgres>>),
) {
    let url = std::env::var(URL).expect("the URL of the database");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if url.starts_with("postgres") {
        runtime.block_on(run(&url, names, code, on_postgres));
    } else {
        runtime.block_on(run(&url, names, code, on_sqlite));
    }
}

/// Restarts as a service manager would when the database is not available at the start, if the test
/// allows that. A worker that has started must recover on its own.
async fn run<DB: TestDatabase>(
    url: &str,
    names: &[&str],
    code: Code,
    declared: Option<Declared<DB>>,
) {
    let (asked, stop) = watch::channel(false);
    let mut signal = Box::pin(consumer::shutdown_signal());
    // The first poll installs the handler.
    assert!(signal.as_mut().now_or_never().is_none(), "not yet");
    println!("{READY}");
    tokio::spawn(async move {
        signal.await;
        asked.send_replace(true);
    });
    let report = loop {
        match start(url, names, code, declared, stop.clone()).await {
            Ok(report) => break report,
            Err(error) => note_restart(&error),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!report.has_failures(), "{report}");
}

async fn start<DB: TestDatabase>(
    url: &str,
    names: &[&str],
    code: Code,
    declared: Option<Declared<DB>>,
    mut stop: watch::Receiver<bool>,
) -> Result<Report, WorkerError> {
    let worker = worker(EventStore::connect(url).await?, names, code, declared);
    let handle = worker.handle();
    let asked = async move {
        let _ = stop.wait_for(|asked| *asked).await;
    };
    let ended = worker.run(asked).await;
    if let Err(error) = &ended {
        let consumers = handle.consumers();
        let has_started = |one: &ConsumerReport| one.state != ConsumerState::Starting;
        assert!(
            !consumers.iter().any(has_started),
            "a worker that had started ended: {error}"
        );
    }
    ended
}

fn note_restart(error: &WorkerError) {
    // A standby, or what a worker finds there that takes it for the primary.
    let can_pass = |problem: &LogProblem| {
        matches!(
            problem,
            LogProblem::Standby | LogProblem::InvisibleLocks { .. }
        )
    };
    if let WorkerError::Log(problem) = error
        && !can_pass(problem)
    {
        panic!("{problem}");
    }
    let file = std::env::var_os(RESTARTS)
        .unwrap_or_else(|| panic!("the worker ended though its database was there: {error}"));
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .expect("open the file of restarts");
    writeln!(file, "{error}").expect("note the restart");
}

fn worker<DB: TestDatabase>(
    store: EventStore<DB>,
    names: &[&str],
    code: Code,
    declared: Option<Declared<DB>>,
) -> Worker<DB> {
    let added = std::env::var(CONSUMERS).unwrap_or_default();
    let names = names
        .iter()
        .copied()
        .chain(added.split(',').filter(|name| !name.is_empty()));
    let mut builder = Worker::builder(store)
        .poll_interval(Duration::from_millis(10))
        .snapshot_interval(Duration::from_millis(50));
    if let Some(release) = code.release {
        builder = builder.release(release);
    }
    if let Some(millis) = number(CLAIM_TIMEOUT) {
        builder = builder.claim_timeout(Duration::from_millis(millis));
    }
    for name in names {
        builder = match name {
            SAMPLES => {
                let settings = impatient().retries(0).on_error(OnError::Skip);
                // With segments, every key is the aggregate's id.
                let many_rows = number(SEGMENTS).is_none();
                builder.consumer(
                    Samples {
                        many_rows,
                        settings,
                    }
                    .folding(),
                )
            }
            BALANCES => builder.registered(declared.expect("the program declares it")()),
            name => builder.consumer(gated(name, code).formerly(former_name(name))),
        };
    }
    let setting = |variable| number(variable).map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    let (batch_size, segments) = (setting(BATCH_SIZE), setting(SEGMENTS));
    let configured = move |settings: Settings| {
        let settings = match batch_size {
            Some(events) => settings.batch_size(events),
            None => settings,
        };
        settings.segments(segments.unwrap_or(1))
    };
    builder
        .configure_all(configured)
        .build()
        .expect("build the worker")
}

/// Writes into `applied` and `chain`, and waits while the gate is there.
fn gated<DB: TestDatabase>(name: &str, code: Code) -> TestConsumer<DB> {
    let (consumer_name, gate): (Arc<str>, _) =
        (name.into(), std::env::var_os(GATE).map(PathBuf::from));
    consumer(name, move |_, tx: &mut DB::Connection, event| {
        let (name, gate) = (Arc::clone(&consumer_name), gate.clone());
        Box::pin(async move {
            (code.read)(event)?;
            DB::apply(tx, &name, event).await?;
            DB::chain(tx, &name, event).await?;
            while gate.as_ref().is_some_and(|gate| gate.exists()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        })
    })
    .knows(code.knows)
}

/// What the process was started with says of a consumer's name.
fn former_name(consumer: &str) -> Formerly {
    let given = std::env::var(FORMERLY).unwrap_or_default();
    match given.split_once('=') {
        Some((name, former)) if name == consumer => Formerly::name(former.to_owned()),
        _ => Formerly::None,
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

impl<DB: TestDatabase> Database<DB> {
    /// Checks that a consumer of a [`WorkerProcess`] has applied every event of the log exactly
    /// once and in order, and that the running hash of each aggregate is right.
    pub async fn assert_applied_exactly_once(&self, consumer: &str) {
        if let Err(difference) = self.applied_exactly_once(consumer).await {
            panic!("{consumer}: {difference}");
        }
    }

    /// Describes the difference when a consumer has not applied every event exactly once, in order.
    pub async fn applied_exactly_once(&self, consumer: &str) -> Result<(), String> {
        let log = "SELECT global_position FROM events ORDER BY global_position";
        let (expected, applied) = (self.numbers(log).await, self.applied(consumer).await);
        if expected != applied {
            return Err(difference(&expected, &applied));
        }
        self.chains_are_whole(consumer).await
    }

    /// Like [`assert_applied_exactly_once`](Self::assert_applied_exactly_once), of a consumer with
    /// segments, which keeps the order within each aggregate alone.
    pub async fn assert_applied_exactly_once_by_segments(&self, consumer: &str) {
        let log = "SELECT global_position FROM events ORDER BY global_position";
        let (expected, mut applied) = (self.numbers(log).await, self.applied(consumer).await);
        applied.sort_unstable();
        assert!(expected == applied, "{}", difference(&expected, &applied));
        if let Err(wrong) = self.chains_are_whole(consumer).await {
            panic!("{wrong}");
        }
    }

    /// Names the first aggregate whose running hash is wrong.
    async fn chains_are_whole(&self, consumer: &str) -> Result<(), String> {
        let aggregates = self
            .texts("SELECT DISTINCT aggregate_id FROM events ORDER BY aggregate_id")
            .await;
        for aggregate in aggregates {
            let positions = self
                .numbers(&format!(
                    "SELECT global_position FROM events WHERE aggregate_id = '{aggregate}'
                      ORDER BY aggregate_version"
                ))
                .await;
            let hash = positions
                .iter()
                .map(|position| position % 1_000_000_007)
                .reduce(|hash, position| (hash * 31 + position) % 1_000_000_007);
            let found = self
                .numbers(&format!(
                    "SELECT hash FROM chain WHERE consumer = '{consumer}' AND aggregate = '{aggregate}'"
                ))
                .await;
            if found.first().copied() != hash {
                return Err(format!("{aggregate} has hash {found:?}, not {hash:?}"));
            }
        }
        Ok(())
    }
}

fn difference(expected: &[i64], applied: &[i64]) -> String {
    let missing = |from: &[i64], these: &[i64]| -> Vec<i64> {
        let from: HashSet<&i64> = from.iter().collect();
        these
            .iter()
            .filter(|p| !from.contains(p))
            .copied()
            .collect()
    };
    let (lost, added) = (missing(applied, expected), missing(expected, applied));
    let disordered = applied.windows(2).filter(|pair| pair[0] >= pair[1]).count();
    format!(
        "{} committed, {} applied; {} lost, from {:?}; {} never committed, from {:?}; {disordered} out of order or twice",
        expected.len(),
        applied.len(),
        lost.len(),
        lost.first(),
        added.len(),
        added.first(),
    )
}
