//! Many consumers over one log, and scopes that hold little of it.

use std::process::Command;
use std::time::{Duration, Instant};

use consumer::{ExpectedVersion, NewEvent, PgEventStore, Worker};
use consumer_tests::measuring::{Samples, in_turns};
use sqlx::Postgres;

use crate::case::{Case, Target};
use crate::consumers::Nothing;
use crate::log::Log;
use crate::plan::Plan;

const FIFTY: &str = "50 no-op consumers beside one";
const IDLE: &str = "500 idle scopes beside 50, following the log";
const IDLE_CPU: &str = "500 idle scopes beside 50, processor time";
const RARE: &str = "scope 1 in 1,000 beside the full scope";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.wants_any(&[FIFTY, IDLE, IDLE_CPU, RARE]) {
        return Vec::new();
    }
    let log = Log::<Postgres>::new(plan.scaled(100_000, 3_000)).await;
    let mut cases = Vec::new();
    if plan.only.wants(FIFTY) {
        cases.push(fifty(plan, &log).await);
    }
    if plan.only.wants(RARE) {
        cases.push(rare(plan, &log).await);
    }
    if plan.wants_any(&[IDLE, IDLE_CPU]) {
        cases.extend(idle(plan, &log).await);
    }
    cases
}

fn case(
    name: &'static str,
    unit: &'static str,
    at_most: f64,
    (ours, other): (Samples, Samples),
    beside: &str,
) -> Case {
    Case::compared(name, unit, (ours, other), beside, Target::AtMost(at_most))
}

async fn seconds(log: &Log<Postgres>, names: usize, scope: &'static [&'static str]) -> f64 {
    let rate = log.worker(|mut worker| {
        for number in 0..names {
            worker = worker.scoped_consumer(Nothing::scoped(format!("nothing.{number}"), scope));
        }
        worker
    });
    log.events as f64 / rate.await
}

async fn fifty(plan: &Plan, log: &Log<Postgres>) -> Case {
    let times = in_turns(
        plan.rounds,
        async || seconds(log, 50, &[]).await,
        async || seconds(log, 1, &[]).await,
    );
    case(FIFTY, "s", 3.0, times.await, "one")
}

async fn rare(plan: &Plan, log: &Log<Postgres>) -> Case {
    let times = in_turns(
        plan.rounds,
        async || seconds(log, 1, &["Rare"]).await,
        async || seconds(log, 1, &[]).await,
    );
    case(RARE, "s", 0.2, times.await, "full scope")
}

/// Follows events that no scope matches: the time from the first append until all know that there
/// is nothing for them, and the processor time of this process meanwhile.
async fn idle(plan: &Plan, log: &Log<Postgres>) -> Vec<Case> {
    let mut processor = [Vec::new(), Vec::new()];
    let (many, few) = {
        let [of_many, of_few] = &mut processor;
        in_turns(
            plan.rounds.min(5),
            async || {
                let (time, cpu) = follow(log, 500, plan).await;
                of_many.push(cpu);
                time
            },
            async || {
                let (time, cpu) = follow(log, 50, plan).await;
                of_few.push(cpu);
                time
            },
        )
        .await
    };
    let [of_many, of_few] = processor.map(Samples::of);
    vec![
        case(IDLE, "s", 1.1, (many, few), "50"),
        case(IDLE_CPU, "s", 1.1, (of_many, of_few), "50"),
    ]
}

async fn follow(log: &Log<Postgres>, consumers: usize, plan: &Plan) -> (f64, f64) {
    log.reset().await;
    let mut builder = Worker::builder(log.db.store.clone());
    for number in 0..consumers {
        let name = format!("nothing.{number}");
        builder = builder.scoped_consumer(Nothing::scoped(name, &["Nobody"]));
    }
    let worker = builder.build().unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    handle.caught_up().await.unwrap();
    let (start, cpu) = (Instant::now(), processor_time());
    let last = append_elsewhere(log.db.url.clone(), plan.quick).await;
    handle.caught_up_to(last).await.unwrap();
    let spent = (start.elapsed().as_secs_f64(), processor_time() - cpu);
    handle.shut_down();
    running.await.unwrap().unwrap();
    spent
}

/// Appends in a process of its own, so that only the worker's time is counted.
async fn append_elsewhere(url: String, quick: bool) -> i64 {
    let output = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--append", &url]);
        if quick {
            child.arg("--quick");
        }
        child.output().unwrap()
    });
    let output = output.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    text.trim().parse().expect("the child's last position")
}

/// The child: appends one event after the other and prints the last one's position.
pub(crate) fn append(url: &str, plan: &Plan) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = PgEventStore::connect(url).await.unwrap();
        let mut last = 0;
        for _ in 0..plan.scaled(2_000, 20) {
            let event = NewEvent::new("Account", "follow", "Deposited", "{}");
            let stored = store.append(ExpectedVersion::Any, &[event]).await.unwrap();
            last = stored[0].global_position;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        println!("{last}");
    });
}

/// The seconds that this process has had on the processors.
fn processor_time() -> f64 {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses: the state is the first field, the times the 12th and 13th.
    let ticks = stat.rsplit(')').next().map_or(0.0, |fields| {
        let times = fields.split_whitespace().skip(11).take(2);
        times.filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
    });
    ticks / TICKS_A_SECOND
}
