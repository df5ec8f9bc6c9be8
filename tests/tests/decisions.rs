//! Decisions: a typed history, a typed append with its version, and another attempt after a conflict.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use consumer::{
    DecisionError, Event, EventStore, ExpectedVersion, HandlerError, NewEvent, StoreError,
};
use consumer_tests::{Database, TestDatabase, patiently, test_on};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Transaction};
use tokio::sync::Barrier;

#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(aggregate = "Account")]
enum AccountEvent {
    Deposited { amount: i64 },
    Withdrawn { amount: i64 },
    Closed,
}

use AccountEvent::{Closed, Deposited, Withdrawn};

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the balance is {0}")]
    Balance(i64),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

fn balance(events: &[AccountEvent]) -> i64 {
    events
        .iter()
        .map(|event| match event {
            Deposited { amount } => *amount,
            Withdrawn { amount } => -amount,
            Closed => 0,
        })
        .sum()
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    a_history_has_the_events_and_the_version_to_append_after,
    concurrent_decisions_are_made_one_after_the_other,
    a_refused_decision_leaves_nothing_and_is_not_made_again,
    a_conflict_is_returned_when_the_attempts_are_over
);

test_on!(
    [sqlite, postgres],
    a_history_that_was_archived_still_has_its_version,
    an_event_that_cannot_be_read_or_written_is_an_error,
    a_conflict_that_the_decision_deals_with_is_not_repeated
);

async fn a_history_has_the_events_and_the_version_to_append_after<DB: TestDatabase>(
    db: Database<DB>,
) {
    let mut tx = db.store.begin().await.unwrap();
    let history = db.store.load::<AccountEvent>(&mut tx, "a-1").await.unwrap();
    assert_eq!(
        (history.events.len(), history.version),
        (0, ExpectedVersion::NoStream)
    );
    let events = [Deposited { amount: 7 }, Withdrawn { amount: 2 }, Closed];
    let appended = db
        .store
        .append_typed(&mut tx, "a-1", history.version, &events)
        .await
        .unwrap();
    assert_eq!(&*appended[1].event_type, "Withdrawn");
    let history = db.store.load::<AccountEvent>(&mut tx, "a-1").await.unwrap();
    assert_eq!(history.events, events);
    assert_eq!(history.version, ExpectedVersion::Exact(3));
    tx.commit().await.unwrap();
}

/// Withdraws if the balance allows it, and notes it in a table besides.
async fn withdraw<DB: TestDatabase>(
    store: &EventStore<DB>,
    amount: i64,
    attempts: &AtomicU32,
) -> Result<(), Refused> {
    store
        .retry_conflicts(100, |mut tx| async move {
            attempts.fetch_add(1, Ordering::Relaxed);
            let history = store.load::<AccountEvent>(&mut tx, "a-1").await?;
            let balance = balance(&history.events);
            DB::execute_sql(&mut tx, "INSERT INTO chain VALUES ('attempt', 'a-1', 1, 1)
                                 ON CONFLICT (consumer, aggregate) DO UPDATE SET events = chain.events + 1")
                .await?;
            if balance < amount {
                return Err(Refused::Balance(balance));
            }
            store
                .append_typed(&mut tx, "a-1", history.version, &[Withdrawn { amount }])
                .await?;
            Ok((tx, ()))
        })
        .await
}

async fn concurrent_decisions_are_made_one_after_the_other<DB: TestDatabase>(db: Database<DB>) {
    let mut tx = db.store.begin().await.unwrap();
    let deposit = [Deposited { amount: 10 }];
    db.store
        .append_typed(&mut tx, "a-1", ExpectedVersion::NoStream, &deposit)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (store, attempts) = (db.store.clone(), Arc::clone(&attempts));
            tokio::spawn(async move { withdraw(&store, 2, &attempts).await })
        })
        .collect();
    let mut refused = 0;
    for task in tasks {
        match patiently("it is decided", task).await.unwrap() {
            Ok(()) => {}
            Err(Refused::Balance(0)) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    // Five withdrawals of two are all that the balance allows.
    assert_eq!(refused, 3);
    let mut connection = db.pool.acquire().await.unwrap();
    let history = db
        .store
        .load::<AccountEvent>(&mut connection, "a-1")
        .await
        .unwrap();
    assert_eq!(balance(&history.events), 0);
    drop(connection);
    // The other table has what was committed, and nothing of the attempts that were not.
    assert_eq!(db.number("SELECT events FROM chain").await, 5);
    assert!(attempts.load(Ordering::Relaxed) >= 8);
}

async fn a_refused_decision_leaves_nothing_and_is_not_made_again<DB: TestDatabase>(
    db: Database<DB>,
) {
    let attempts = AtomicU32::new(0);
    let refused = withdraw(&db.store, 2, &attempts).await;
    assert!(matches!(refused, Err(Refused::Balance(0))), "{refused:?}");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    assert_eq!(db.numbers("SELECT events FROM chain").await, [] as [i64; 0]);
    assert_eq!(db.log().await, [] as [i64; 0]);
}

async fn a_conflict_is_returned_when_the_attempts_are_over<DB: TestDatabase>(db: Database<DB>) {
    db.append("Account", ["a-1"]).await;
    let (store, attempts) = (&db.store, &AtomicU32::new(0));
    let decided: Result<(), StoreError> = store
        .retry_conflicts(3, |mut tx| async move {
            attempts.fetch_add(1, Ordering::Relaxed);
            let stale = ExpectedVersion::NoStream;
            store.append_typed(&mut tx, "a-1", stale, &[Closed]).await?;
            Ok((tx, ()))
        })
        .await;
    assert!(
        matches!(decided, Err(StoreError::Conflict { .. })),
        "{decided:?}"
    );
    assert_eq!(attempts.load(Ordering::Relaxed), 3);
}

async fn a_history_that_was_archived_still_has_its_version<DB: TestDatabase>(db: Database<DB>) {
    db.append("Account", ["a-1", "a-1"]).await;
    db.execute("DELETE FROM events").await;
    let mut tx = db.store.begin().await.unwrap();
    let history = db.store.load::<AccountEvent>(&mut tx, "a-1").await.unwrap();
    assert_eq!(history.version, ExpectedVersion::Exact(2));
    let appended = db
        .store
        .append_typed(&mut tx, "a-1", history.version, &[Closed])
        .await
        .unwrap();
    assert_eq!(appended[0].aggregate_version, 3);
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Account")]
struct Unwritable {
    #[serde(serialize_with = "fail")]
    amount: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn fail<S: serde::Serializer>(_: &i64, _: S) -> Result<S::Ok, S::Error> {
    Err(serde::ser::Error::custom("as told"))
}

async fn an_event_that_cannot_be_read_or_written_is_an_error<DB: TestDatabase>(db: Database<DB>) {
    db.append("Account", ["a-1"]).await;
    let mut tx = db.store.begin().await.unwrap();
    let loaded = db.store.load::<AccountEvent>(&mut tx, "a-1").await;
    assert!(matches!(loaded, Err(StoreError::Decode(_))), "{loaded:?}");
    let appended = db
        .store
        .append_typed(
            &mut tx,
            "a-1",
            ExpectedVersion::Any,
            &[Unwritable { amount: 1 }],
        )
        .await;
    let Err(StoreError::Encode { event_type, source }) = appended else {
        panic!("{appended:?}")
    };
    assert_eq!(
        (event_type, source.to_string().as_str()),
        ("Unwritable", "as told")
    );
}

async fn a_conflict_that_the_decision_deals_with_is_not_repeated<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("Account", ["a-1"]).await;
    let (store, attempts) = (&db.store, &AtomicU32::new(0));
    let decided: Result<&str, StoreError> = store
        .retry_conflicts(3, |mut tx| async move {
            attempts.fetch_add(1, Ordering::Relaxed);
            let event = NewEvent::new("Account", "a-1", "Closed", "{}");
            let stale = ExpectedVersion::NoStream;
            match store.append_in(&mut tx, stale, &[event]).await {
                Err(StoreError::Conflict { .. }) => Ok((tx, "known already")),
                other => other.map(|_| (tx, "new")),
            }
        })
        .await;
    assert_eq!(decided.unwrap(), "known already");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

/// Two decisions of which each waits for a row that the other one has locked, and how often they were made.
async fn crossing<E, Kind>(db: &Database<Postgres>, attempts: u32) -> (Vec<Result<(), E>>, u32)
where
    E: From<StoreError> + From<sqlx::Error> + DecisionError<Kind>,
{
    db.execute("DROP TABLE IF EXISTS stock; CREATE TABLE stock (id INT, sold INT)")
        .await;
    db.execute("INSERT INTO stock VALUES (1, 0), (2, 0)").await;
    let (store, made) = (&db.store, &AtomicU32::new(0));
    let both = &Barrier::new(2);
    let sell = async |order: &str, [one, other]: [i32; 2]| {
        let mine = &AtomicU32::new(0);
        let decide = |mut tx: Transaction<'static, Postgres>| async move {
            made.fetch_add(1, Ordering::Relaxed);
            let history = store.load::<AccountEvent>(&mut tx, order).await?;
            let sell = "UPDATE stock SET sold = sold + 1 WHERE id = $1";
            sqlx::query(sell).bind(one).execute(&mut *tx).await?;
            if mine.fetch_add(1, Ordering::Relaxed) == 0 {
                both.wait().await;
            }
            sqlx::query(sell).bind(other).execute(&mut *tx).await?;
            let deposit = [Deposited { amount: 1 }];
            store
                .append_typed(&mut tx, order, history.version, &deposit)
                .await?;
            Ok((tx, ()))
        };
        store.retry_conflicts(attempts, decide).await
    };
    let (one, other) = tokio::join!(sell("a-1", [1, 2]), sell("a-2", [2, 1]));
    (vec![one, other], made.load(Ordering::Relaxed))
}

/// A deadlock of the decisions' own statements, of which one is made again.
async fn is_solved<E, Kind>(db: &Database<Postgres>)
where
    E: fmt::Debug + From<StoreError> + From<sqlx::Error> + DecisionError<Kind>,
{
    let (decided, made) = crossing::<E, Kind>(db, 20).await;
    assert!(decided.iter().all(Result::is_ok), "{decided:?}");
    // The one that is made again may lock its row before the other one wakes, and they cross once more.
    assert!(made >= 3, "made {made} times");
    assert_eq!(db.numbers("SELECT sold::bigint FROM stock").await, [2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_on_another_table_is_decided_again() {
    let db = Database::<Postgres>::fresh().await;
    // A transparent error and one with a source, those of other crates, and the library's.
    is_solved::<Refused, _>(&db).await;
    is_solved::<StoreError, _>(&db).await;
    is_solved::<Box<dyn Error + Send + Sync>, _>(&db).await;
    is_solved::<Box<dyn Error>, _>(&db).await;
    is_solved::<HandlerError, _>(&db).await;

    // The control: with one attempt, it is an error.
    let (decided, made) = crossing::<Refused, _>(&db, 1).await;
    let failed: Vec<_> = decided
        .iter()
        .filter_map(|one| one.as_ref().err())
        .collect();
    assert!(matches!(failed[..], [Refused::Database(_)]), "{decided:?}");
    assert_eq!(made, 2);
}

/// An error that hides its cause.
#[derive(Debug, thiserror::Error)]
#[error("not decided")]
struct Hidden;

impl From<StoreError> for Hidden {
    fn from(_: StoreError) -> Self {
        Self
    }
}

const SERIALIZABLE: &str = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";

/// The transaction of a decision that fails unless it could be the only one.
async fn serializable(tx: &mut Transaction<'static, Postgres>) {
    Postgres::execute_sql(tx, SERIALIZABLE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serialization_failure_of_a_load_is_decided_again() {
    let db = Database::<Postgres>::fresh().await;
    db.execute("CREATE TABLE pairs (id INT, n INT); INSERT INTO pairs VALUES (1, 0), (2, 0)")
        .await;
    db.append_typed("a-1", &Deposited { amount: 7 }).await;
    let (store, attempts) = (&db.store, &AtomicU32::new(0));
    let decided: Result<i64, Hidden> = store
        .retry_conflicts(5, |mut tx| async move {
            let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
            serializable(&mut tx).await;
            let run = async |tx: &mut Transaction<'static, Postgres>, sql| {
                Postgres::execute_sql(tx, sql).await.unwrap();
            };
            run(&mut tx, "SELECT n FROM pairs WHERE id = 1").await;
            let mut other = store.begin().await?;
            serializable(&mut other).await;
            run(&mut other, "SELECT n FROM pairs WHERE id = 2").await;
            run(&mut tx, "UPDATE pairs SET n = n + 1 WHERE id = 2").await;
            if is_first {
                // Neither can have been before the other.
                run(&mut other, "UPDATE pairs SET n = n + 1 WHERE id = 1").await;
                other.commit().await.unwrap();
            }
            let history = store.load::<AccountEvent>(&mut tx, "a-1").await?;
            Ok((tx, balance(&history.events)))
        })
        .await;
    assert_eq!(decided.unwrap(), 7);
    assert_eq!(attempts.load(Ordering::Relaxed), 2);
    assert_eq!(db.numbers("SELECT n::bigint FROM pairs").await, [1, 1]);
}

/// Two decisions that each count what both insert, which only their commits show.
async fn counting(db: &Database<Postgres>, attempts: u32) -> (Vec<Result<(), StoreError>>, u32) {
    db.execute("DROP TABLE IF EXISTS counted; CREATE TABLE counted (n BIGINT)")
        .await;
    let (store, made) = (&db.store, &AtomicU32::new(0));
    let both = &Barrier::new(2);
    let count = async |account: &str| {
        let mine = &AtomicU32::new(0);
        let decide = |mut tx: Transaction<'static, Postgres>| async move {
            made.fetch_add(1, Ordering::Relaxed);
            serializable(&mut tx).await;
            let count = "INSERT INTO counted SELECT count(*) FROM counted";
            sqlx::query(count).execute(&mut *tx).await?;
            let deposit = [Deposited { amount: 1 }];
            let any = ExpectedVersion::Any;
            store.append_typed(&mut tx, account, any, &deposit).await?;
            if mine.fetch_add(1, Ordering::Relaxed) == 0 {
                both.wait().await;
            }
            Ok((tx, ()))
        };
        store.retry_conflicts(attempts, decide).await
    };
    let (one, other) = tokio::join!(count("a-1"), count("a-2"));
    (vec![one, other], made.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_cannot_be_serialized_is_decided_again() {
    let db = Database::<Postgres>::fresh().await;
    let (decided, made) = counting(&db, 20).await;
    assert!(decided.iter().all(Result::is_ok), "{decided:?}");
    // Twice for the one that fails, which may do so again until the other commit is visible.
    assert!(made >= 3, "{made}");
    let counted = db.numbers("SELECT n FROM counted ORDER BY n");
    assert_eq!(counted.await, [0, 1]);
    // The control: with one attempt, the commit is an error.
    let (decided, made) = counting(&db, 1).await;
    let failed: Vec<_> = decided
        .iter()
        .filter_map(|one| one.as_ref().err())
        .collect();
    assert!(
        matches!(failed[..], [StoreError::Database(_)]),
        "{decided:?}"
    );
    assert_eq!(made, 2);
}
