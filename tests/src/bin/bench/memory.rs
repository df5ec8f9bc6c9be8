//! The most memory that catching up takes, in a process of its own.

use std::process::Command;

use consumer::{PgEventStore, Worker};

use crate::consumers::Nothing;
use crate::data::fill_postgres;
use crate::measure::{Case, Samples, Target};
use crate::plan::Plan;

const PEAK: &str = "peak memory, 20 consumers catching up";
const CONSUMERS: usize = 20;

/// The budget of a worker: its cache, and a batch for each lane that runs at the same time.
const BUDGET: f64 = 64.0 + CONSUMERS as f64 * 16.0;

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.wants(PEAK) {
        return Vec::new();
    }
    let server = Plan::server();
    let database = server.database().await;
    let store = database.store().await;
    fill_postgres(&store, plan.scaled(1_000_000, 3_000)).await;
    let url = database.url.clone();
    let output = tokio::task::spawn_blocking(move || {
        let program = std::env::current_exe().unwrap();
        Command::new(program)
            .args(["--catch-up", &url])
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let peak: f64 = text.trim().parse().expect("the child's peak in MiB");
    let case = Case {
        name: PEAK,
        unit: "MiB",
        ours: Samples::of([peak]),
        other: None,
        target: Target::AtMost(BUDGET),
    };
    case.print();
    vec![case]
}

/// The child: catches up in the database and prints its peak in MiB.
pub(crate) fn catch_up(url: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = PgEventStore::connect(url).await.unwrap();
        let mut builder = Worker::builder(store);
        for number in 0..CONSUMERS {
            builder = builder.consumer(Nothing::named(format!("nothing.{number}")));
        }
        let report = builder.build().unwrap().run_once().await.unwrap();
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
        / 1024.0
}
