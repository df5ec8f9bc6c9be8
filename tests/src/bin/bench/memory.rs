//! The most memory that catching up takes, in a process of its own.

use std::process::Command;

use consumer::{PgEventStore, Worker};
use consumer_tests::Database;
use consumer_tests::measuring::{Samples, server};
use sqlx::Postgres;

use crate::case::{Case, Target};
use crate::consumers::Nothing;
use crate::log::Log;
use crate::plan::Plan;
use crate::rows::{Narrow, Row as _};

const SMALL: &str = "peak memory, 20 consumers, 1,000,000 events of 200 bytes";
const LARGE: &str = "peak memory, 20 consumers, 20,000 events of 20 kB";
const UNBOUNDED: &str = "the same with an unbounded cache";
/// A batch of a fold ends at 50,000 keys, whatever its `batch_size` is.
const KEYS: &str = "peak memory, a fold, 1,000,000 events of as many keys, 50,000 in a batch";
const CONSUMERS: usize = 20;
const MIB: f64 = 1024.0 * 1024.0;

/// What the guide to scaling says: the cache, sixteen full batches, a read, and what the program
/// itself takes.
const BUDGET: f64 = 64.0 + 16.0 * 16.0 + 8.0 + 32.0;

/// The cache, two large batches, a read, rows, and what the program itself takes.
const BUDGET_OF_A_FOLD: f64 = 64.0 + 2.0 * 64.0 + 8.0 + 2.0 * 16.0 + 32.0;

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    if plan.only.wants(KEYS) {
        let events = plan.scaled(1_000_000, 3_000);
        let log = Log::<Postgres>::over(events, events).await;
        let budget = Target::AtMost(BUDGET_OF_A_FOLD);
        cases.push(case(KEYS, &log.db, &["--fold", &log.db.url], budget).await);
        log.check_in("totals").await;
    }
    if plan.wants_any(&[SMALL, LARGE, UNBOUNDED]) {
        cases.extend(of_many_consumers(plan).await);
    }
    cases
}

async fn of_many_consumers(plan: &Plan) -> [Case; 3] {
    let small = Log::<Postgres>::new(plan.scaled(1_000_000, 3_000)).await.db;
    let large = Database::on(server()).await;
    large.execute(&fill_large(plan.scaled(20_000, 300))).await;
    let budget = Target::AtMost(BUDGET);
    let catch_up = ["--catch-up", &*large.url];
    let most = u64::MAX.to_string();
    let unbounded = [&catch_up[..], &["--cache", &most]].concat();
    [
        case(SMALL, &small, &["--catch-up", &small.url], budget).await,
        case(LARGE, &large, &catch_up, budget).await,
        case(UNBOUNDED, &large, &unbounded, Target::None).await,
    ]
}

/// Appends events that do not compress.
fn fill_large(events: usize) -> String {
    format!(
        "INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
         SELECT 'Large', 'large-' || n, 1, gen_random_uuid(), 'Grown',
                (SELECT string_agg(decode(md5(n::text || m), 'hex'), '') FROM generate_series(1, 1250) AS m)
           FROM generate_series(1, {events}) AS n"
    )
}

async fn case(
    name: &'static str,
    db: &Database<Postgres>,
    arguments: &[&str],
    target: Target,
) -> Case {
    // The case before it may have left its checkpoints.
    db.execute("DELETE FROM consumer_progress").await;
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(arguments);
    let output = tokio::task::spawn_blocking(move || child.output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let peak: f64 = text.trim().parse().expect("the child's peak in MiB");
    Case::of(name, "MiB", Samples::of([peak]), target)
}

/// The child: catches up in the database and prints its peak in MiB.
pub(crate) fn catch_up(url: &str, cache: Option<u64>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = PgEventStore::connect(url).await.unwrap();
        let mut builder = Worker::builder(store);
        if let Some(bytes) = cache {
            builder = builder.cache_bytes(bytes);
        }
        for number in 0..CONSUMERS {
            builder = builder.consumer(Nothing::named(format!("nothing.{number}")));
        }
        let report = builder.build().unwrap().run_once().await.unwrap();
        assert!(!report.has_failures(), "{report}");
    });
    println!("{}", peak());
}

/// The child: folds all events of the database in batches as large as they may be, and prints its peak.
pub(crate) fn fold(url: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = PgEventStore::connect(url).await.unwrap();
        let worker = Worker::builder(store)
            .consumer(Narrow::counting())
            .configure_all(|settings| settings.batch_size(1_000_000));
        let report = worker.build().unwrap().run_once().await.unwrap();
        assert!(!report.has_failures(), "{report}");
    });
    println!("{}", peak());
}

/// The kernel's high-water mark of this process's memory.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux kernel");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes
        .and_then(|number| number.parse::<f64>().ok())
        .unwrap()
        * 1024.0
        / MIB
}
