//! Two builds of one program beside each other: the one after appends events that the one before does not
//! know.

use consumer::ConsumerState;
use consumer::admin::{Admin, ConsumerStatus};
use consumer_tests::releases::{append_known, append_unknown};
use consumer_tests::{Database, TestDatabase, WorkerProcess, test_on, until};

const BEFORE: &str = env!("CARGO_BIN_EXE_test_release_before");
const AFTER: &str = env!("CARGO_BIN_EXE_test_release_after");

const CONSUMERS: [&str; 2] = ["orders", "ledger"];

test_on!(
    [sqlite, postgres, through_a_pooler],
    a_deploy_process_by_process_loses_and_repeats_nothing,
    a_release_that_is_rolled_back_and_returns_loses_nothing
);

fn start<DB: TestDatabase>(db: &Database<DB>, program: &str) -> WorkerProcess {
    WorkerProcess::of(program, db).batch_size(3).start()
}

async fn statuses<DB: TestDatabase>(db: &Database<DB>) -> Vec<ConsumerStatus> {
    let status = Admin::new(db.store.clone()).status().await.unwrap();
    let mut consumers = status.consumers;
    consumers.retain(|one| CONSUMERS.contains(&&*one.id.name));
    consumers
}

/// Waits until both consumers have handled everything and say so.
async fn all_handled<DB: TestDatabase>(db: &Database<DB>) {
    let head = *db.log().await.last().unwrap();
    until("both consumers have handled the log", async || {
        let consumers = statuses(db).await;
        let is_done = |one: &ConsumerStatus| {
            one.state == ConsumerState::Running
                && one.position == Some(head)
                && one.lag.events == 0
                && one.waiting_for.is_none()
        };
        consumers.len() == 2 && consumers.iter().all(is_done)
    })
    .await;
    exactly_once(db).await;
}

async fn exactly_once<DB: TestDatabase>(db: &Database<DB>) {
    for consumer in CONSUMERS {
        db.assert_applied_exactly_once(consumer).await;
    }
}

/// Waits until both consumers say that they wait before an event, and checks that this is true.
async fn all_wait_before<DB: TestDatabase>(db: &Database<DB>, position: i64) {
    until("both consumers wait for another release", async || {
        let consumers = statuses(db).await;
        let is_waiting = |one: &ConsumerStatus| {
            let waits_for = one.waiting_for.as_ref().map(|event| event.position);
            waits_for == Some(position) && one.state.name() == "waiting_for_release"
        };
        consumers.iter().all(is_waiting)
    })
    .await;
    let log = db.log().await;
    let handled = log.partition_point(|one| *one < position);
    for one in statuses(db).await {
        assert_eq!(db.applied(&one.id.name).await, log[..handled]);
        assert_eq!(one.lag.events, (log.len() - handled) as u64);
        let text = one.state.to_string();
        let event = one.waiting_for.unwrap();
        assert!(
            text.ends_with(&format!("(Order, position {position})")),
            "{text}"
        );
        assert!(
            (event.event_type == "Refunded") != (event.event_version == 2),
            "{event}"
        );
    }
}

/// Kills one of the processes at this moment, and starts it again.
fn restart<DB: TestDatabase>(db: &Database<DB>, processes: &mut [Option<WorkerProcess>]) {
    let which = fastrand::usize(..processes.len());
    if let Some(process) = processes[which].take() {
        process.kill();
    }
    processes[which] = Some(start(db, BEFORE));
}

/// Appends what both releases know and what only the one after does, while processes of the one before
/// restart at any moment.
async fn rounds<DB: TestDatabase>(db: &Database<DB>, old: &mut [Option<WorkerProcess>]) {
    for round in 0..6 {
        append_known(db, fastrand::usize(..6)).await;
        if round % 2 == 0 {
            restart(db, old);
        }
        append_unknown(db).await;
        append_known(db, fastrand::usize(..6)).await;
        if round % 2 == 1 {
            restart(db, old);
        }
        if round % 3 == 0 {
            all_handled(db).await;
        }
    }
    all_handled(db).await;
}

async fn a_deploy_process_by_process_loses_and_repeats_nothing<DB: TestDatabase>(db: Database<DB>) {
    let mut old = [Some(start(&db, BEFORE)), Some(start(&db, BEFORE))];
    append_known(&db, 20).await;
    all_handled(&db).await;
    let releases: Vec<String> = statuses(&db).await[0]
        .workers
        .iter()
        .map(|one| one.release.clone())
        .collect();
    assert!(
        releases
            .iter()
            .all(|one| one.starts_with("test_release_before-")),
        "{releases:?}"
    );

    // The first process of the new release has appended something, and is gone again.
    let first = append_unknown(&db).await;
    append_known(&db, 5).await;
    all_wait_before(&db, first).await;
    restart(&db, &mut old);
    all_wait_before(&db, first).await;

    let new = start(&db, AFTER);
    all_handled(&db).await;
    rounds(&db, &mut old).await;
    // The second process of the old release is replaced, and the first one ends.
    old[1] = None;
    let second = start(&db, AFTER);
    rounds(&db, &mut old[..1]).await;
    old[0] = None;
    append_unknown(&db).await;
    all_handled(&db).await;
    // A lane notes its process once a second at most.
    until("the rows name the new release", async || {
        append_known(&db, 1).await;
        all_handled(&db).await;
        let statuses = statuses(&db).await;
        let mut latest = statuses.iter().map(|one| &one.workers[0].release);
        latest.all(|latest| latest.starts_with("test_release_after-"))
    })
    .await;
    assert!(new.terminate() && second.terminate());
    exactly_once(&db).await;
}

async fn a_release_that_is_rolled_back_and_returns_loses_nothing<DB: TestDatabase>(
    db: Database<DB>,
) {
    let new = start(&db, AFTER);
    append_known(&db, 5).await;
    append_unknown(&db).await;
    all_handled(&db).await;

    // Processes of the release before join.
    let mut old = [Some(start(&db, BEFORE)), Some(start(&db, BEFORE))];
    rounds(&db, &mut old).await;

    // Only they are left, and what the other has appended waits.
    append_unknown(&db).await;
    all_handled(&db).await;
    new.kill();
    append_known(&db, 5).await;
    all_handled(&db).await;
    let first = append_unknown(&db).await;
    append_known(&db, 5).await;
    all_wait_before(&db, first).await;
    restart(&db, &mut old);
    all_wait_before(&db, first).await;

    let new = start(&db, AFTER);
    all_handled(&db).await;
    assert!(new.terminate());
}
