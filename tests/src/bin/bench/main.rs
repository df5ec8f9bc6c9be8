//! Measures workers against the loop that one would write by hand, on this machine, in one run.
//!
//! `cargo run --release -p consumer-tests --bin bench` makes its own servers and its own data, and
//! writes a table (`bench.md`) and a plot (`bench.svg`) into `--out DIR`, or `target/results`.
//! `--quick` is the short form for continuous integration: it runs every case once on little data
//! and says nothing about speed. `--only WORD` runs the cases whose name contains the word.

mod append;
mod by_hand;
mod case;
mod consumers;
mod declared;
mod dispatch;
mod folds;
mod hand_made;
mod held;
mod latency;
mod log;
mod memory;
mod plan;
mod plot;
mod postgres;
mod processes;
mod round_trips;
mod rows;
mod scale;
mod segments;
mod sqlite;
mod table;
mod viewers;

use self::case::Case;
use self::plan::{Child, Plan};

fn main() {
    let plan = Plan::from_arguments();
    match &plan.child {
        Some(Child::CatchUp(url)) => return memory::catch_up(url, plan.cache),
        Some(Child::Append(url)) => return scale::append(url, &plan),
        Some(Child::Fold(url)) => return memory::fold(url),
        Some(Child::Share(share)) => return processes::share(share),
        None => {}
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cases = runtime.block_on(run(&plan));
    table::write(&plan, &cases);
    plot::write(&plan, &cases);
}

async fn run(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(postgres::run(plan).await);
    cases.extend(held::run(plan).await);
    cases.extend(sqlite::run(plan).await);
    cases.extend(folds::run(plan).await);
    cases.extend(scale::run(plan).await);
    cases.extend(segments::run(plan).await);
    cases.extend(processes::run(plan).await);
    cases.extend(dispatch::run(plan).await);
    cases.extend(append::run(plan).await);
    cases.extend(latency::run(plan).await);
    cases.extend(round_trips::run(plan).await);
    cases.extend(memory::run(plan).await);
    cases.extend(viewers::run(plan).await);
    cases
}
