//! Compares this library with evento, cqrs-es and disintegrate in one run, each with its own store on
//! Postgres, the same events and the same read model.
//!
//! `cargo run --release` in this directory starts its own server, and writes the tables into
//! `peers.md` in `--out DIR`, by default the current directory. `--quick` runs everything once on a
//! small data set, which says nothing about speed. `--only WORD` selects the peers whose name contains
//! the word. `--rounds N` and `--events N` apply to the first table, `--appends N` to the second.
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
