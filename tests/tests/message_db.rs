//! Message DB as a log: its own SQL, its own `write_message`, and typed consumers of a role that may only
//! read its messages.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::prelude::*;
use consumer::{Access, PgEventStore, Schema, StoreError, Worker};
use consumer_tests::{Database, Running, run_once, until, watching};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, Postgres};
use uuid::Uuid;

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(aggregate = "account")]
enum AccountEvent {
    Opened { owner: String },
    Deposited { amount: i64 },
    Closed,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(aggregate = "withdrawal:command")]
struct Withdraw {
    amount: i64,
}

/// What consumers have seen of each aggregate: version, event id and content.
type Seen = Arc<Mutex<BTreeMap<String, Vec<(i64, Uuid, String)>>>>;

fn note<E: std::fmt::Debug>(seen: &Seen, event: &Envelope<'_, E>) {
    let aggregate = format!("{}-{}", event.aggregate_type, event.aggregate_id);
    let row = (
        event.aggregate_version,
        event.event_id,
        format!("{:?}", event.payload),
    );
    seen.lock().unwrap().entry(aggregate).or_default().push(row);
}

#[derive(Default)]
struct Accounts(Seen);

#[consumer(name = "accounts", aggregates = [AccountEvent])]
impl Accounts {
    #[on]
    async fn on(&self, event: Envelope<'_, AccountEvent>) -> Result<(), HandlerError> {
        note(&self.0, &event);
        Ok(())
    }
}

#[derive(Default)]
struct Withdrawals(Seen);

#[consumer(name = "withdrawals", aggregates = ["withdrawal:command"])]
impl Withdrawals {
    #[on]
    async fn on(&self, event: Envelope<'_, Withdraw>) -> Result<(), HandlerError> {
        note(&self.0, &event);
        Ok(())
    }
}

/// Message DB, and a store of a role that has USAGE on its schema, SELECT on `messages`, and nothing else
/// there.
struct MessageDb {
    db: Database<Postgres>,
    store: PgEventStore,
}

impl MessageDb {
    async fn install() -> Option<Self> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("message-db");
        let db = Database::with_message_db(&directory).await?;
        let role = format!("reader_{}", fastrand::u64(..));
        db.execute(&format!(
            "CREATE ROLE {role} LOGIN;
             GRANT USAGE ON SCHEMA message_store TO {role};
             GRANT SELECT ON message_store.messages TO {role};
             CREATE SCHEMA consumers AUTHORIZATION {role}"
        ))
        .await;
        let url = db.url.replace("postgres@", &format!("{role}@"));
        let schema = Schema::message_db().database_schema("consumers");
        let store = PgEventStore::connect(&url)
            .await
            .unwrap()
            .with_schema(schema)
            .unwrap();
        store.migrate().await.unwrap();
        Some(Self { db, store })
    }

    /// A session of a writer.
    async fn writer(&self) -> PgConnection {
        let url = self.db.url.replace("postgres@", "message_store@");
        let mut writer = PgConnection::connect(&url).await.unwrap();
        sqlx::query("SET search_path = message_store, public")
            .execute(&mut writer)
            .await
            .unwrap();
        writer
    }

    fn worker(&self, accounts: &Seen, withdrawals: &Seen) -> consumer::WorkerBuilder<Postgres> {
        Worker::builder(self.store.clone())
            .poll_interval(Duration::from_millis(10))
            .scoped_consumer(Accounts(Arc::clone(accounts)))
            .scoped_consumer(Withdrawals(Arc::clone(withdrawals)))
    }
}

/// Writes with Message DB's own function.
async fn write(writer: &mut PgConnection, stream: &str, kind: &str, data: Option<&str>) -> Uuid {
    let id = Uuid::new_v4();
    let written: Result<i64, _> = sqlx::query_scalar("SELECT write_message($1, $2, $3, $4::jsonb)")
        .bind(id.to_string())
        .bind(stream)
        .bind(kind)
        .bind(data)
        .fetch_one(writer)
        .await;
    written.unwrap_or_else(|error| panic!("{stream}: {error}"));
    id
}

/// Writes twice in each of 40 transactions, of which every fourth is rolled back, and returns what was
/// committed. `write_message` locks the category until the transaction ends, so only writers of different
/// categories commit in another order than that of their positions.
async fn write_many(mut session: PgConnection, writer: u32) -> Vec<(String, Uuid)> {
    let mut written = Vec::new();
    let (category, kind) = if writer.is_multiple_of(2) {
        ("account", "Deposited")
    } else {
        ("withdrawal:command", "Withdraw")
    };
    for n in 0..40 {
        let stream = format!("{category}-{writer}-{}", n % 3);
        let data = format!(r#"{{"amount":{n}}}"#);
        let mut tx = session.begin().await.unwrap();
        let first = write(&mut tx, &stream, kind, Some(&data)).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..4))).await;
        let second = write(&mut tx, &stream, kind, Some(&data)).await;
        if n % 4 == 0 {
            tx.rollback().await.unwrap();
        } else {
            tx.commit().await.unwrap();
            written.extend([(stream.clone(), first), (stream, second)]);
        }
    }
    written
}

fn count(seen: &Seen) -> usize {
    seen.lock().unwrap().values().map(Vec::len).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_consumers_lose_nothing_of_concurrent_writers() {
    let Some(message_db) = MessageDb::install().await else {
        return;
    };
    let (accounts, withdrawals) = (Seen::default(), Seen::default());
    let (all, seen_by_all) = watching("all");
    let worker = message_db.worker(&accounts, &withdrawals).consumer(all);
    let running = Running::start(worker);
    let mut writers = Vec::new();
    for writer in 0..6 {
        writers.push(tokio::spawn(write_many(message_db.writer().await, writer)));
    }
    let mut expected: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
    for writer in writers {
        for (stream, id) in writer.await.unwrap() {
            expected.entry(stream).or_default().push(id);
        }
    }
    let total = 6 * 2 * 30;
    until("all messages are handled", async || {
        count(&accounts) + count(&withdrawals) >= total
            && seen_by_all.lock().unwrap().len() >= total
    })
    .await;
    let report = running.stop().await;
    assert!(!report.has_failures(), "{report}");

    let mut seen = accounts.lock().unwrap().clone();
    seen.extend(withdrawals.lock().unwrap().clone());
    let ids = |rows: &Vec<(i64, Uuid, String)>| rows.iter().map(|row| row.1).collect::<Vec<_>>();
    let found: BTreeMap<String, Vec<Uuid>> = seen
        .iter()
        .map(|(stream, rows)| (stream.clone(), ids(rows)))
        .collect();
    assert_eq!(found, expected);
    let mut by_all: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
    for event in seen_by_all.lock().unwrap().iter() {
        let stream = format!("{}-{}", event.aggregate_type, event.aggregate_id);
        by_all.entry(stream).or_default().push(event.event_id);
    }
    assert_eq!(by_all, expected);
    for (stream, rows) in &seen {
        let versions: Vec<i64> = rows.iter().map(|row| row.0).collect();
        assert_eq!(
            versions,
            (0..rows.len() as i64).collect::<Vec<_>>(),
            "{stream}"
        );
    }
}

/// The control: a reader that continues after the highest position it has seen.
async fn read_on(conn: &mut PgConnection, seen: &mut Vec<i64>) {
    let read = sqlx::query_scalar(
        "SELECT global_position FROM message_store.messages WHERE global_position > $1 ORDER BY 1",
    );
    let after = seen.last().copied().unwrap_or(0);
    seen.extend::<Vec<i64>>(read.bind(after).fetch_all(conn).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_category_that_commits_late_at_a_low_position_is_read() {
    let Some(message_db) = MessageDb::install().await else {
        return;
    };
    let (accounts, withdrawals) = (Seen::default(), Seen::default());
    let (all, seen_by_all) = watching("all");
    let worker = message_db.worker(&accounts, &withdrawals).consumer(all);
    let running = Running::start(worker);
    let mut account = message_db.writer().await;
    let mut withdrawal = message_db.writer().await;
    let mut control = PgConnection::connect(&message_db.db.url).await.unwrap();
    let (mut trusting, data) = (Vec::new(), Some(r#"{"amount":1}"#));
    for round in 1..=4 {
        let before = (count(&accounts), count(&withdrawals));
        let mut open = account.begin().await.unwrap();
        write(&mut open, "account-1", "Deposited", data).await;
        // Another category, so it does not wait for the lock of the first.
        write(&mut withdrawal, "withdrawal:command-1", "Withdraw", data).await;
        read_on(&mut control, &mut trusting).await;
        until("the worker waits for the open transaction", async || {
            running.frontier_wait().is_some()
        })
        .await;
        assert_eq!((count(&accounts), count(&withdrawals)), before);
        open.commit().await.unwrap();
        until("both are handled", async || {
            (count(&accounts), count(&withdrawals)) == (round, round)
                && seen_by_all.lock().unwrap().len() == 2 * round
        })
        .await;
        read_on(&mut control, &mut trusting).await;
    }
    running.stop().await;
    let log = "SELECT global_position FROM message_store.messages ORDER BY 1";
    let log = message_db.db.numbers(log).await;
    assert_eq!(log.len(), 8);
    let positions = seen_by_all.lock().unwrap().clone();
    let positions: Vec<i64> = positions
        .iter()
        .map(|event| event.global_position)
        .collect();
    assert_eq!(positions, log);
    let lost = log.iter().filter(|position| !trusting.contains(position));
    assert_eq!(lost.count(), 4, "the control loses one of each round");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_execute_on_the_category_its_grant_is_named() {
    let Some(message_db) = MessageDb::install().await else {
        return;
    };
    let store = &message_db.store;
    message_db
        .db
        .execute("REVOKE EXECUTE ON FUNCTION message_store.category(varchar) FROM PUBLIC")
        .await;
    let StoreError::MissingPrivileges { statements, .. } = store.migrate().await.unwrap_err()
    else {
        panic!("another error")
    };
    let role = store.pool().connect_options().get_username().to_owned();
    assert_eq!(
        statements,
        [format!(
            "GRANT EXECUTE ON FUNCTION message_store.category(character varying) TO {role}"
        )]
    );
    message_db.db.execute(&statements[0]).await;
    store.check_access(Access::Work).await.unwrap();
    let (accounts, withdrawals) = (Seen::default(), Seen::default());
    run_once(message_db.worker(&accounts, &withdrawals)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_become_events_as_the_preset_says() {
    let Some(message_db) = MessageDb::install().await else {
        return;
    };
    let mut writer = message_db.writer().await;
    write(
        &mut writer,
        "account-1-2-3",
        "Opened",
        Some(r#"{"owner":"C:\\ada"}"#),
    )
    .await;
    let id = write(&mut writer, "account-1-2-3", "Closed", None).await;
    write(&mut writer, "account", "Closed", None).await;
    let (accounts, withdrawals) = (Seen::default(), Seen::default());
    run_once(message_db.worker(&accounts, &withdrawals)).await;
    let seen = accounts.lock().unwrap().clone();
    let of_one = &seen["account-1-2-3"];
    assert_eq!(of_one[0].2, r#"Opened { owner: "C:\\ada" }"#);
    assert_eq!(of_one[1], (1, id, "Closed".to_owned()));
    assert_eq!(seen["account-"].len(), 1);

    let store = &message_db.store;
    let mut conn = store.pool().acquire().await.unwrap();
    let history = store
        .read_aggregate(&mut conn, "account", "1-2-3", None, None)
        .await
        .unwrap();
    assert_eq!(history.len(), 2);
    assert_eq!(&history[1].payload[..], b"{}");
    assert_eq!(history[1].event_version, 1);
    let age = chrono::Utc::now() - history[1].created_at;
    assert!(age.num_seconds().abs() < 600, "{age}");
    let without_id = store
        .read_aggregate(&mut conn, "account", "", None, None)
        .await
        .unwrap();
    assert_eq!(without_id.len(), 1);
    let event = NewEvent::new("account", "7", "Opened", "{}");
    let refused = store.append(ExpectedVersion::Any, &[event]).await;
    assert!(
        matches!(refused, Err(StoreError::ReadOnlyLog { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_needs_no_more_than_select_on_the_messages() {
    let Some(message_db) = MessageDb::install().await else {
        return;
    };
    let role = message_db
        .store
        .pool()
        .connect_options()
        .get_username()
        .to_owned();
    let held = |what: &str| {
        format!(
            "SELECT count(*) FROM pg_class AS c
               JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'message_store'
              WHERE {what}"
        )
    };
    let on_tables = [
        "INSERT",
        "UPDATE",
        "DELETE",
        "TRUNCATE",
        "REFERENCES",
        "TRIGGER",
    ]
    .map(|privilege| format!("has_table_privilege('{role}', c.oid, '{privilege}')"));
    let on_tables = format!("c.relkind IN ('r', 'v') AND ({})", on_tables.join(" OR "));
    assert_eq!(message_db.db.number(&held(&on_tables)).await, 0);
    let selected =
        format!("c.relkind IN ('r', 'v') AND has_table_privilege('{role}', c.oid, 'SELECT')");
    assert_eq!(message_db.db.number(&held(&selected)).await, 1);
    let sequences = format!(
        "CASE c.relkind WHEN 'S'
              THEN has_sequence_privilege('{role}', c.oid, 'SELECT, USAGE, UPDATE') END"
    );
    assert_eq!(message_db.db.number(&held(&sequences)).await, 0);
    message_db.store.check_access(Access::Work).await.unwrap();

    let mut writer = message_db.writer().await;
    write(
        &mut writer,
        "account-1",
        "Deposited",
        Some(r#"{"amount":7}"#),
    )
    .await;
    let (accounts, withdrawals) = (Seen::default(), Seen::default());
    let report = run_once(message_db.worker(&accounts, &withdrawals)).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(accounts.lock().unwrap().len(), 1);
}

/// How often this session has read the table of messages as a whole, as far as the server has not yet recorded it.
async fn whole_reads(conn: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'messages'")
        .fetch_one(conn)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_category_and_a_stream_are_read_by_their_indexes() {
    let Some(message_db) = MessageDb::install().await else {
        return;
    };
    message_db
        .db
        .execute(
            "INSERT INTO message_store.messages (position, stream_name, type, data)
             SELECT n / 100, 'other-' || n % 100, 'Happened', '{}' FROM generate_series(0, 9999) AS n;
             INSERT INTO message_store.messages (position, stream_name, type, data)
             VALUES (0, 'account-1', 'Deposited', '{\"amount\":1}');
             ANALYZE message_store.messages",
        )
        .await;
    let mut conn = PgConnection::connect(&message_db.db.url).await.unwrap();
    let mut conn = conn.begin().await.unwrap();
    let types = [Arc::from("account")];
    let range = consumer::ReadRange {
        after: 0,
        up_to: i64::MAX,
        limit: 100,
        max_bytes: 1 << 20,
        scope: Some(&types),
    };
    let store = &message_db.store;
    assert_eq!(store.read_range(&mut conn, range).await.unwrap().len(), 1);
    let history = store
        .read_aggregate(&mut conn, "other", "7", None, None)
        .await
        .unwrap();
    assert_eq!(history.len(), 100);
    assert_eq!(whole_reads(&mut conn).await, 0);
}
