//! Measures ours beside the crates that a user would pick instead, on this machine, in one run:
//! evento, cqrs-es and disintegrate, each with its own store on Postgres, the same events and the
//! same read model.
//!
//! `cargo run --release` in this directory makes its own server and its own data, and writes a table
//! (`peers.md`) into `--out DIR`, or the current directory. `--quick` runs everything once on little
//! data and says nothing about speed. `--only WORD` takes the peers whose name contains the word,
//! and ours; `--rounds N` and `--events N` are for the first table, `--appends N` for the second.
mod cqrs_es;
mod deposits;
mod disintegrate;
mod evento_1;
mod evento_2;
mod lost;
mod ours;
mod peer;
mod plan;
mod speed;
mod table;

use crate::peer::Peer;
use crate::plan::Plan;
use crate::speed::Speed;
use crate::table::Line;

#[tokio::main]
async fn main() {
    let plan = Plan::from_arguments();
    let mut lines = vec![line::<ours::Ours>(&plan, None).await];
    lines.extend(compare::<evento_1::Evento>(&plan).await);
    lines.extend(compare::<evento_2::Evento>(&plan).await);
    lines.extend(compare::<disintegrate::Disintegrate>(&plan).await);
    lines.extend(compare::<cqrs_es::CqrsEs>(&plan).await);
    table::write(&plan, &lines);
}

async fn compare<P: Peer>(plan: &Plan) -> Option<Line> {
    if !plan.only.wants(&P::name()) {
        return None;
    }
    let speed = speed::run::<P>(plan).await;
    Some(line::<P>(plan, Some(speed)).await)
}

async fn line<P: Peer>(plan: &Plan, speed: Option<Speed>) -> Line {
    Line {
        name: P::name(),
        notes: P::NOTES,
        speed,
        lost: lost::run::<P>(plan).await,
    }
}
