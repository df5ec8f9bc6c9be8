//! A thousand events in one call, beside a thousand calls in one transaction.

use consumer::{Backend, EventStore, ExpectedVersion, NewEvent};
use consumer_tests::SqliteDatabase;
use consumer_tests::measuring::{in_turns, rate, server, timed};

use crate::case::{Case, Target};
use crate::plan::Plan;

const POSTGRES: &str = "Postgres, append of 1,000 in one call";
const SQLITE: &str = "SQLite, append of 1,000 in one call";
const EVENTS: usize = 1_000;

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    if plan.only.wants(POSTGRES) {
        let server = server();
        let database = server.database().await;
        cases.push(append(plan, POSTGRES, database.store().await).await);
    }
    if plan.only.wants(SQLITE) {
        let database = SqliteDatabase::new().await;
        cases.push(append(plan, SQLITE, database.store().await).await);
    }
    cases
}

async fn append<DB: Backend>(plan: &Plan, name: &'static str, store: EventStore<DB>) -> Case {
    let calls = plan.scaled(20, 1);
    let at_once = async || {
        let time = timed(async {
            for _ in 0..calls {
                let events = events();
                let mut tx = store.begin().await.unwrap();
                let stored = store
                    .append_in(&mut tx, ExpectedVersion::Any, &events)
                    .await;
                assert_eq!(stored.unwrap().len(), EVENTS);
                tx.commit().await.unwrap();
            }
        });
        rate(calls * EVENTS, time.await)
    };
    let one_by_one = async || {
        let time = timed(async {
            let mut tx = store.begin().await.unwrap();
            for event in events() {
                let stored = store
                    .append_in(&mut tx, ExpectedVersion::Any, &[event])
                    .await;
                stored.unwrap();
            }
            tx.commit().await.unwrap();
        });
        rate(EVENTS, time.await)
    };
    let (ours, other) = in_turns(plan.rounds, at_once, one_by_one).await;
    Case::compared(
        name,
        "events/s",
        (ours, other),
        "1,000 calls",
        Target::AtLeast(10.0),
    )
}

fn events() -> Vec<NewEvent> {
    let id = uuid::Uuid::new_v4().to_string();
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(185));
    (0..EVENTS)
        .map(|_| NewEvent::new("Account", &*id, "Deposited", payload.clone()))
        .collect()
}
