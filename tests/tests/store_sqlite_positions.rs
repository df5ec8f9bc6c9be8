//! On SQLite positions are in commit order and without gaps, which makes the highest position the
//! frontier (R11).

use consumer::{ExpectedVersion, NewEvent, SqliteEventStore};
use proptest::prelude::*;
use sqlx::{Connection, Sqlite, SqliteConnection};

/// The steps of one transaction.
#[derive(Clone, Debug)]
struct Work {
    steps: Vec<Step>,
    commits: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    /// Appends inside a savepoint that is rolled back.
    AppendInVain(u8),
    /// Deletes the newest event.
    DeleteNewest,
}

fn work() -> impl Strategy<Value = Work> {
    let step = prop_oneof![
        4 => (1..5_u8).prop_map(Step::Append),
        2 => (1..5_u8).prop_map(Step::AppendInVain),
    ];
    (prop::collection::vec(step, 0..5), any::<bool>())
        .prop_map(|(steps, commits)| Work { steps, commits })
}

fn events(count: u8) -> Vec<NewEvent> {
    let event = |_| NewEvent::new("User", "u-1", "E", "");
    (0..count).map(event).collect()
}

async fn run(store: &SqliteEventStore, tx: &mut SqliteConnection, step: &Step) {
    let any = ExpectedVersion::Any;
    match step {
        Step::Append(count) => {
            store.append_in(tx, any, &events(*count)).await.unwrap();
        }
        Step::AppendInVain(count) => {
            let mut savepoint = tx.begin().await.unwrap();
            let events = events(*count);
            store.append_in(&mut savepoint, any, &events).await.unwrap();
            savepoint.rollback().await.unwrap();
        }
        Step::DeleteNewest => {
            sqlx::query("DELETE FROM events WHERE global_position = (SELECT max(global_position) FROM events)")
                .execute(tx)
                .await
                .unwrap();
        }
    }
}

/// All visible positions, on a connection of its own.
async fn visible(store: &SqliteEventStore) -> Vec<i64> {
    sqlx::query_scalar::<Sqlite, i64>("SELECT global_position FROM events ORDER BY global_position")
        .fetch_all(store.pool())
        .await
        .unwrap()
}

async fn no_position_appears_below_one_that_was_seen(history: Vec<Work>) {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("test.db").display());
    let store = SqliteEventStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    let mut seen = Vec::new();
    for work in history {
        let mut tx = store.begin().await.unwrap();
        for step in &work.steps {
            run(&store, &mut tx, step).await;
            assert_eq!(
                visible(&store).await,
                seen,
                "nothing is visible before the commit"
            );
        }
        if work.commits {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let now = visible(&store).await;
        assert!(now.starts_with(&seen), "{seen:?} became {now:?}");
        assert!(
            now.iter()
                .copied()
                .eq(1..=i64::try_from(now.len()).unwrap()),
            "a gap: {now:?}"
        );
        seen = now;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn r11_rolled_back_positions_are_reused_and_leave_no_gap(
        history in prop::collection::vec(work(), 1..12)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(no_position_appears_below_one_that_was_seen(history));
    }
}

#[tokio::test]
async fn r11_the_position_of_a_deleted_event_is_never_given_out_again() {
    let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
    store.migrate().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    run(&store, &mut tx, &Step::Append(3)).await;
    run(&store, &mut tx, &Step::DeleteNewest).await;
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    run(&store, &mut tx, &Step::Append(1)).await;
    tx.commit().await.unwrap();
    assert_eq!(visible(&store).await, [1, 2, 4]);
}
