//! A program goes from the library's previous version to a release with a new type of event, new versions of two
//! others, of which one has its first field, a renamed consumer, and a new version of a read model. Another
//! consumer has segments, and one has effects outside of the database. All the while, processes are killed and
//! started again at random moments.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use consumer::admin::{ActivateOptions, Admin, Target};
use consumer::aggregate_slice;
use consumer_tests::releases::{after, append_after, append_known, append_unknown, placed_v2};
use consumer_tests::{Database, Program, Restarts, TestDatabase, WorkerProcess, test_on, until};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The commit before the first that knows events which a release does not know, and names of consumers
/// that are retired: what follows it are versions 6 and 7 of the tables.
const PREVIOUS: &str = "08249d022b3f92140738690b2ca484c38c7cb7e3";

test_on!(
    [empty_sqlite, empty_postgres],
    a_library_update_and_a_deploy_hand_over_every_event_once,
    a_deploy_of_all_at_once_that_is_rolled_back_loses_nothing,
    an_old_library_that_is_accepted_passes_over_a_type
);

/// A consumer of a release.
#[derive(Clone, Copy)]
struct Declared {
    name: &'static str,
    version: u32,
    segments: u16,
    /// The table that it fills; `None` for the file outside.
    table: Option<&'static str>,
}

const fn filling(name: &'static str, version: u32, table: &'static str) -> Declared {
    Declared {
        name,
        version,
        segments: 1,
        table: Some(table),
    }
}

const BALANCES: Declared = Declared {
    segments: 4,
    ..filling("balances", 1, "balances_v1")
};

const MAILS: Declared = Declared {
    table: None,
    ..filling("mails", 1, "")
};

const BEFORE: [Declared; 5] = [
    filling("orders", 1, "orders_v1"),
    filling("billing", 1, "invoices_v1"),
    filling("totals", 1, "totals_v1"),
    BALANCES,
    MAILS,
];

const AFTER: [Declared; 5] = [
    filling("orders", 1, "orders_v1"),
    filling("invoices", 1, "invoices_v1"),
    filling("totals", 2, "totals_v2"),
    BALANCES,
    MAILS,
];

/// The most events of a batch of `mails`.
const BATCH: usize = 3;

/// A build of the program.
#[derive(Clone)]
struct Release {
    program: String,
    consumers: [Declared; 5],
}

/// The three builds: the previous library with the release before, then both releases with this library.
async fn releases() -> Option<[Release; 3]> {
    static PROGRAMS: OnceCell<Option<[String; 3]>> = OnceCell::const_new();
    let built = PROGRAMS.get_or_init(async || {
        let build = tokio::task::spawn_blocking(|| {
            let temporary = env!("CARGO_TARGET_TMPDIR");
            let before = Program::of("deploy").features("v1");
            Some([
                before.with_library_of(PREVIOUS).build(temporary)?,
                before.build(temporary)?,
                Program::of("deploy").features("v2").build(temporary)?,
            ])
        });
        build.await.unwrap()
    });
    let programs = built.await.clone()?;
    let mut consumers = [BEFORE, BEFORE, AFTER].into_iter();
    Some(programs.map(|program| Release {
        program,
        consumers: consumers.next().unwrap(),
    }))
}

impl Release {
    /// What starts a process of it, which need not be ready.
    fn spawning<DB: TestDatabase>(
        &self,
        db: &Database<DB>,
    ) -> impl Fn() -> WorkerProcess + Send + 'static {
        let (program, url, outside) = (self.program.clone(), db.url.clone(), outside(db));
        move || WorkerProcess::at(&program, &url).outside(&outside).spawn()
    }

    fn command<DB: TestDatabase>(&self, db: &Database<DB>, command: &str) -> Output {
        let mut program = Command::new(&self.program);
        program.arg(command).env("TEST_WORKER_URL", &db.url);
        program.output().unwrap()
    }

    fn migrate<DB: TestDatabase>(&self, db: &Database<DB>) {
        let output = self.command(db, "migrate");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
    }

    /// What `status` says of a consumer.
    fn status<DB: TestDatabase>(&self, db: &Database<DB>, name: &str, version: u32) -> Value {
        let output = self.command(db, "status");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut consumers = status["consumers"].as_array().unwrap().iter();
        let is_it = |one: &&Value| one["name"] == name && one["version"] == version;
        consumers.find(is_it).cloned().unwrap_or_default()
    }

    /// Waits until `status` says something of a consumer.
    async fn says<DB: TestDatabase>(
        &self,
        db: &Database<DB>,
        (name, version): (&str, u32),
        expected: Value,
    ) {
        let agrees = async || {
            let status = self.status(db, name, version);
            let mut expected = expected.as_object().unwrap().iter();
            expected.all(|(key, value)| status.pointer(key).unwrap_or(&status[key]) == value)
        };
        until(&format!("`status` says {expected} of {name}"), agrees).await;
    }

    /// Checks that every start and every command is refused.
    fn is_refused<DB: TestDatabase>(&self, db: &Database<DB>) {
        for command in ["run", "status", "migrate"] {
            let output = self.command(db, command);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{command}");
            assert!(errors.contains("update the `consumer` crate"), "{errors}");
        }
    }

    /// Waits until its consumers have handled every event, once and in order, and `status` says so.
    async fn has_handled_all<DB: TestDatabase>(&self, db: &Database<DB>) {
        let log = db.log().await;
        let head = *log.last().unwrap();
        until("the audit has the log", async || {
            db.applied("audit").await.len() >= log.len()
        })
        .await;
        assert_eq!(db.applied("audit").await, log);
        let expected = folded(db, |_| true).await;
        for consumer in self.consumers {
            until(&format!("{consumer} is up to date"), async || {
                events(&rows(db, consumer).await) >= log.len() as i64
            })
            .await;
            assert_eq!(rows(db, consumer).await, expected, "{consumer}");
            let done = json!({
                "state": "running", "position": head, "/lag/events": 0, "waiting_for": null,
                "held_back": null,
            });
            self.says(db, (consumer.name, consumer.version), done).await;
        }
        let done = json!({ "state": "running", "position": head, "/lag/events": 0 });
        self.says(db, ("audit", 1), done).await;
        repeats_are_those_of_interrupted_batches(db);
    }

    /// Waits until a consumer says that it waits before an event, the first one that is unknown, and checks
    /// that each of its segments has handled all before the first that is unknown there.
    async fn waits_before<DB: TestDatabase>(
        &self,
        db: &Database<DB>,
        consumer: Declared,
        position: i64,
    ) {
        let bounds = first_unknown_in_segments(db, consumer.segments, position).await;
        let log = db.log().await;
        let left = log.iter().filter(|one| **one >= position).count();
        let mut waits = json!({
            "state": "waiting_for_release", "/waiting_for/position": position, "/lag/events": left,
        });
        for (number, first) in bounds.iter().enumerate() {
            let state = if *first == i64::MAX {
                "running"
            } else {
                "waiting_for_release"
            };
            waits[format!("/segments/{number}/state")] = state.into();
        }
        self.says(db, (consumer.name, consumer.version), waits)
            .await;
        let is_handled = |id: &str, one: i64| one < bounds[segment_of(id, consumer.segments)];
        let expected = folded_by(db, is_handled).await;
        until(
            &format!("{consumer} has handled what it knows"),
            async || events(&rows(db, consumer).await) >= events(&expected),
        )
        .await;
        assert_eq!(rows(db, consumer).await, expected, "{consumer}");
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name, self.version)
    }
}

/// Which of so many segments handles an aggregate.
fn segment_of(id: &str, segments: u16) -> usize {
    usize::from(aggregate_slice(id) / (1024 / segments))
}

/// The position of the first event in each segment that the release before does not know, from a position
/// on; beyond all where there is none.
async fn first_unknown_in_segments<DB: TestDatabase>(
    db: &Database<DB>,
    segments: u16,
    from: i64,
) -> Vec<i64> {
    let unknown = format!(
        "FROM events WHERE (event_type = 'Refunded' OR event_version = 2) AND global_position >= {from}
         ORDER BY global_position"
    );
    let ids = db.texts(&format!("SELECT aggregate_id {unknown}")).await;
    let positions = db
        .numbers(&format!("SELECT global_position {unknown}"))
        .await;
    let mut first = vec![i64::MAX; usize::from(segments)];
    for (id, position) in ids.iter().zip(positions) {
        let first = &mut first[segment_of(id, segments)];
        *first = position.min(*first);
    }
    first
}

/// The file that `mails` writes into on a database, empty at first.
fn outside<DB: TestDatabase>(db: &Database<DB>) -> PathBuf {
    let name = db
        .url
        .replace(|letter: char| !letter.is_alphanumeric(), "_");
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("outside_{name}"))
}

/// The lines of that file.
fn written_outside<DB: TestDatabase>(db: &Database<DB>) -> Vec<String> {
    let written = fs::read_to_string(outside(db)).unwrap();
    written.lines().map(str::to_owned).collect()
}

/// What `mails` has done, each event as it was first handled.
fn mails<DB: TestDatabase>(db: &Database<DB>) -> BTreeMap<String, Row> {
    let mut seen = BTreeSet::new();
    let mut rows = BTreeMap::new();
    for line in written_outside(db) {
        if let Some((position, id)) = line.split_once(' ')
            && seen.insert(position.to_owned())
        {
            fold(&mut rows, id.to_owned(), position.parse().unwrap());
        }
    }
    rows
}

/// What the file says once the last process with the previous library has ended.
const PREVIOUS_ENDED: &str = "previous_ended";

fn note_that_previous_ended<DB: TestDatabase>(db: &Database<DB>) {
    let file = fs::OpenOptions::new().append(true).open(outside(db));
    writeln!(file.unwrap(), "{PREVIOUS_ENDED}").unwrap();
}

/// Checks that no process has left more to repeat than the batch that its end interrupted. On SQLite, two
/// processes with the previous library could handle one batch without `tx` at the same time.
fn repeats_are_those_of_interrupted_batches<DB: TestDatabase>(db: &Database<DB>) {
    let lines = written_outside(db);
    let starts = lines.iter().filter(|line| *line == "start").count();
    let from = match DB::NAME {
        "SQLite" => lines.iter().position(|line| line == PREVIOUS_ENDED),
        _ => Some(0),
    };
    let of_this_library = &lines[from.unwrap_or(lines.len())..];
    let mut seen = BTreeSet::new();
    let is_repeat = |line: &&String| line.contains(' ') && !seen.insert((*line).clone());
    let repeats = of_this_library.iter().filter(is_repeat).count();
    println!("{repeats} repeats of {starts} processes on {}", DB::NAME);
    assert!(
        repeats <= BATCH * starts,
        "{repeats} repeats of {starts} processes"
    );
}

/// A row of a read model: how many events, and the hash of their positions.
type Row = (i64, i64);

/// The rows that a consumer has filled, if they are there.
async fn rows<DB: TestDatabase>(db: &Database<DB>, consumer: Declared) -> BTreeMap<String, Row> {
    let Some(table) = consumer.table else {
        return mails(db);
    };
    let sql = format!("SELECT id || ' ' || events || ' ' || chain FROM {table}");
    let mut connection = db.pool.acquire().await.unwrap();
    let rows = DB::texts(&mut connection, &sql).await.unwrap_or_default();
    let row = |text: &String| {
        let [id, events, chain] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
        (
            id.to_owned(),
            (events.parse().unwrap(), chain.parse().unwrap()),
        )
    };
    rows.iter().map(row).collect()
}

fn events(rows: &BTreeMap<String, Row>) -> i64 {
    rows.values().map(|(events, _)| events).sum()
}

/// The rows after the events at these positions of the log.
async fn folded<DB: TestDatabase>(
    db: &Database<DB>,
    is_handled: impl Fn(i64) -> bool,
) -> BTreeMap<String, Row> {
    folded_by(db, |_, position| is_handled(position)).await
}

/// The rows after the events of these aggregates at these positions of the log.
async fn folded_by<DB: TestDatabase>(
    db: &Database<DB>,
    is_handled: impl Fn(&str, i64) -> bool,
) -> BTreeMap<String, Row> {
    let ids = "SELECT aggregate_id FROM events ORDER BY global_position";
    let (ids, positions) = (db.texts(ids).await, db.log().await);
    let mut rows = BTreeMap::new();
    for (id, position) in ids.into_iter().zip(positions) {
        if is_handled(&id, position) {
            fold(&mut rows, id, position);
        }
    }
    rows
}

fn fold(rows: &mut BTreeMap<String, Row>, id: String, position: i64) {
    let (events, chain) = rows.entry(id).or_default();
    *events += 1;
    *chain = (*chain * 31 + position) % 1_000_000_007;
}

/// Appends events, of which some are new, while processes restart.
async fn rounds<DB: TestDatabase>(db: &Database<DB>, restarts: &Restarts, has_new: bool) {
    for round in 0..4 {
        append_known(db, fastrand::usize(..6)).await;
        if round % 2 == 0 {
            restarts.restart_any();
        }
        if has_new {
            append_unknown(db).await;
        }
        append_known(db, fastrand::usize(1..6)).await;
        if round % 2 == 1 {
            restarts.restart_any();
        }
    }
}

/// A database that the previous library has migrated, in which two of its processes, `old 1` and `old 2`,
/// have handled events.
async fn with_previous<DB: TestDatabase>(db: &Database<DB>, previous: &Release) -> Restarts {
    fs::write(outside(db), "").unwrap();
    previous.migrate(db);
    db.execute(DB::CREATE_READ_MODEL).await;
    let restarts = Restarts::begin();
    for name in ["old 1", "old 2"] {
        restarts.add(name, previous.spawning(db));
    }
    append_known(db, 20).await;
    previous.has_handled_all(db).await;
    restarts
}

/// Checks that a refused process ends with an error.
fn ends_refused(restarts: &Restarts, name: &str) {
    assert!(!restarts.leave(name).ended(), "it ends with an error");
}

/// What processes of the release before say once the one after has taken over.
async fn says_what_is_taken<DB: TestDatabase>(db: &Database<DB>, before: &Release, first: i64) {
    let held = "held back: it was renamed to `invoices`; `rename invoices billing` takes that back, \
                and `start-new billing` starts another consumer of this name";
    let held = json!({ "state": "held_back", "held_back": held, "position": null });
    before.says(db, ("billing", 1), held).await;
    let renamed = json!({ "state": "other_release", "waiting_for": null });
    before.says(db, ("invoices", 1), renamed).await;
    // No program knows both this version and the event.
    before.waits_before(db, BEFORE[2], first).await;
    let other = json!({ "state": "other_version", "waiting_for": null });
    before.says(db, ("totals", 2), other).await;
}

async fn a_library_update_and_a_deploy_hand_over_every_event_once<DB: TestDatabase>(
    db: Database<DB>,
) {
    let Some([previous, before, after]) = releases().await else {
        return;
    };
    let restarts = with_previous(&db, &previous).await;
    let updated = update_the_library(&db, &restarts, &previous, &before).await;

    // From now on, no process with the previous library works, or starts again.
    restarts.may_end("old 2");
    refuse_older(&db, &restarts).await;
    ends_refused(&restarts, "old 2");
    previous.is_refused(&db);
    // And back, since nothing new was appended.
    db.store.accept_older_libraries().await.unwrap();
    restarts.add("old 3", previous.spawning(&db));
    rounds(&db, &restarts, false).await;
    for name in updated {
        restarts.leave(name).kill();
    }
    rounds(&db, &restarts, false).await;
    previous.has_handled_all(&db).await;
    restarts.may_end("old 3");
    refuse_older(&db, &restarts).await;
    ends_refused(&restarts, "old 3");
    note_that_previous_ended(&db);
    previous.is_refused(&db);
    for name in updated {
        restarts.add(name, before.spawning(&db));
    }

    // The first process of the new release has appended something, and is gone again.
    let first = append_unknown(&db).await;
    append_known(&db, 5).await;
    for consumer in BEFORE {
        before.waits_before(&db, consumer, first).await;
    }
    replace_the_release(&db, &restarts, &before, &after, first).await;
    previous.is_refused(&db);
    after.has_handled_all(&db).await;
    println!("{} restarts on {}", restarts.end(), DB::NAME);
    fs::remove_file(outside(&db)).unwrap();
}

/// The library alone, in both orders: nothing changes for the processes with the previous one, of which
/// `old 2` is left. Returns the names of those with this library.
async fn update_the_library<DB: TestDatabase>(
    db: &Database<DB>,
    restarts: &Restarts,
    previous: &Release,
    before: &Release,
) -> [&'static str; 2] {
    restarts.during(async || before.migrate(db)).await;
    rounds(db, restarts, false).await;
    previous.has_handled_all(db).await;
    let updated = ["updated 1", "updated 2"];
    let add = async |name| restarts.add(name, before.spawning(db));
    restarts.during(async || add(updated[0]).await).await;
    rounds(db, restarts, false).await;
    before.has_handled_all(db).await;
    restarts.leave(updated[0]).kill();
    rounds(db, restarts, false).await;
    previous.has_handled_all(db).await;
    for name in updated {
        add(name).await;
    }
    rounds(db, restarts, false).await;
    restarts.leave("old 1").kill();
    rounds(db, restarts, false).await;
    before.has_handled_all(db).await;
    updated
}

/// Keeps the previous library from the tables, while processes with either one restart.
async fn refuse_older<DB: TestDatabase>(db: &Database<DB>, restarts: &Restarts) {
    let refuse = async || db.store.refuse_older_libraries().await.unwrap();
    restarts.during(refuse).await;
}

/// Both releases, then the new one alone. `first` is the first event that only the new one knows.
async fn replace_the_release<DB: TestDatabase>(
    db: &Database<DB>,
    restarts: &Restarts,
    before: &Release,
    after: &Release,
    first: i64,
) {
    restarts
        .during(async || restarts.add("new 1", after.spawning(db)))
        .await;
    after.has_handled_all(db).await;
    says_what_is_taken(db, before, first).await;
    rounds(db, restarts, true).await;
    after.has_handled_all(db).await;
    restarts.leave("updated 1").kill();
    restarts.add("new 2", after.spawning(db));
    rounds(db, restarts, true).await;
    after.has_handled_all(db).await;
    says_what_is_taken(db, before, first).await;
    assert!(restarts.leave("updated 2").terminate());
    append_unknown(db).await;
    after.has_handled_all(db).await;

    let admin = Admin::new(db.store.clone());
    let activate = async || {
        let totals = Target::new("totals").version(2);
        admin
            .activate(totals, ActivateOptions::new())
            .await
            .unwrap();
    };
    restarts.during(activate).await;
    let active = json!({ "state": "running", "is_active": true });
    after.says(db, ("totals", 2), active).await;
    let replaced = json!({ "state": "other_version", "is_active": false });
    after.says(db, ("totals", 1), replaced).await;
    let refunds = "SELECT event_type FROM events WHERE event_type = 'Refunded'";
    let refunded = db.numbers("SELECT CAST(sum(refunded) AS BIGINT) FROM totals");
    assert_eq!(refunded.await, [db.texts(refunds).await.len() as i64]);
    for name in ["new 1", "new 2"] {
        assert!(restarts.leave(name).terminate());
    }
}

async fn a_deploy_of_all_at_once_that_is_rolled_back_loses_nothing<DB: TestDatabase>(
    db: Database<DB>,
) {
    let Some([previous, before, after]) = releases().await else {
        return;
    };
    let restarts = with_previous(&db, &previous).await;

    // The library and the release at once: the old library is refused before the first new process.
    restarts.during(async || after.migrate(&db)).await;
    append_known(&db, 10).await;
    restarts.may_end("old 1");
    restarts.may_end("old 2");
    refuse_older(&db, &restarts).await;
    drop(restarts.leave("old 1"));
    restarts
        .during(async || restarts.add("new 1", after.spawning(&db)))
        .await;
    let first = append_unknown(&db).await;
    append_known(&db, 5).await;
    previous.is_refused(&db);
    after.has_handled_all(&db).await;
    ends_refused(&restarts, "old 2");
    note_that_previous_ended(&db);
    previous.is_refused(&db);

    roll_back(&db, &restarts, (&before, &after), first).await;

    // The release after comes again, and takes the name when it is told to.
    restarts.add("new 2", after.spawning(&db));
    let held = json!({ "state": "held_back" });
    after.says(&db, ("invoices", 1), held).await;
    before
        .says(
            &db,
            ("billing", 1),
            json!({ "state": "waiting_for_release" }),
        )
        .await;
    rename(&db, &restarts, ["billing", "invoices"]).await;
    after.has_handled_all(&db).await;
    rounds(&db, &restarts, true).await;
    after.has_handled_all(&db).await;
    for name in OLD {
        assert!(restarts.leave(name).terminate());
    }
    append_unknown(&db).await;
    after.has_handled_all(&db).await;
    assert!(restarts.leave("new 2").terminate());
    println!("{} restarts on {}", restarts.end(), DB::NAME);
    fs::remove_file(outside(&db)).unwrap();
}

/// The processes of the release before, with this library, in a deploy that is rolled back.
const OLD: [&str; 2] = ["before 1", "before 2"];

/// The release before, with this library, joins, and is all that is left.
async fn roll_back<DB: TestDatabase>(
    db: &Database<DB>,
    restarts: &Restarts,
    (before, after): (&Release, &Release),
    first: i64,
) {
    for name in OLD {
        restarts.add(name, before.spawning(db));
    }
    rounds(db, restarts, true).await;
    after.has_handled_all(db).await;
    says_what_is_taken(db, before, first).await;
    restarts.leave("new 1").kill();
    let left = append_unknown(db).await;
    append_known(db, 5).await;
    before.waits_before(db, BEFORE[0], left).await;
    says_what_is_taken(db, before, first).await;
    rename(db, restarts, ["invoices", "billing"]).await;
    before.waits_before(db, BEFORE[1], left).await;
    for consumer in [BEFORE[0], BEFORE[1], BALANCES, MAILS] {
        before.waits_before(db, consumer, left).await;
    }
}

async fn rename<DB: TestDatabase>(db: &Database<DB>, restarts: &Restarts, [old, new]: [&str; 2]) {
    let admin = Admin::new(db.store.clone());
    restarts
        .during(async || admin.rename(old, new).await.unwrap())
        .await;
}

/// The control, and what the guide says of programs with an earlier library.
async fn an_old_library_that_is_accepted_passes_over_a_type<DB: TestDatabase>(db: Database<DB>) {
    let Some([previous, _, after]) = releases().await else {
        return;
    };
    let restarts = with_previous(&db, &previous).await;
    restarts.leave("old 1").kill();
    restarts.during(async || after.migrate(&db)).await;

    let passed = append_after(&db, &after::OrderEvent::Refunded { amount: 1 }).await;
    append_known(&db, 3).await;
    let head = *db.log().await.last().unwrap();
    let done = json!({ "state": "running", "position": head, "/lag/events": 0 });
    let without = folded(&db, |one| one != passed).await;
    for consumer in BEFORE {
        previous
            .says(&db, (consumer.name, consumer.version), done.clone())
            .await;
        assert_eq!(rows(&db, consumer).await, without, "{consumer}");
    }
    // At a version that it cannot read, it stops.
    append_after(&db, &placed_v2()).await;
    for consumer in BEFORE {
        let stopped = json!({ "state": "stopped" });
        previous
            .says(&db, (consumer.name, consumer.version), stopped)
            .await;
    }
    restarts.leave("old 2").kill();

    restarts.add("new", after.spawning(&db));
    append_known(&db, 3).await;
    let lossy = folded(&db, |one| one != passed).await;
    let whole = folded(&db, |_| true).await;
    for consumer in AFTER {
        // A new version begins at the first event.
        let expected = if consumer.version == 2 {
            &whole
        } else {
            &lossy
        };
        until(&format!("{consumer} is up to date"), async || {
            events(&rows(&db, consumer).await) >= events(expected)
        })
        .await;
        assert_eq!(rows(&db, consumer).await, *expected, "{consumer}");
    }
    assert!(restarts.leave("new").terminate());
    println!("{} restarts on {}", restarts.end(), DB::NAME);
    fs::remove_file(outside(&db)).unwrap();
}
