//! After a redaction, no consumer gets the old payload, in any process, and no table or message of the
//! library quotes it.

use std::sync::Arc;

use clap::Parser as _;
use consumer::admin::{Admin, AdminError, RebuildOptions};
use consumer::cli::{Cli, Console, Exit};
use consumer::{
    Column, EventStore, Metadata, NewEvent, OnError, Redaction, Schema, Settings, SqlType,
    StoreError, Worker,
};
use consumer_tests::{
    Database, Payloads, Running, TestConsumer, TestDatabase, impatient, patiently,
    recording_at_gate, run_once, test_on, until,
};
use sqlx::Postgres;
use tokio::sync::Semaphore;

test_on!(
    [sqlite, postgres, through_a_pooler],
    a_redaction_replaces_the_payload_and_nothing_else,
    workers_drop_the_old_payload_of_a_redacted_event
);

test_on!(
    [sqlite, postgres],
    metadata_is_kept_replaced_or_removed,
    a_redaction_that_is_rolled_back_changes_nothing,
    what_cannot_be_redacted_is_refused,
    the_command_replaces_errors_that_may_quote_the_payload,
    a_parked_event_is_retried_with_its_new_payload,
    a_rebuild_after_a_redaction_gets_the_new_payload,
    errors_of_another_log_stay,
    metadata_that_a_table_has_no_column_for_is_refused,
    a_log_of_another_program_is_not_redacted
);

const SECRET: &str = r#"{"email":"ada@example.com"}"#;
const REDACTED: &str = r#"{"email":null}"#;

fn open() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1_000))
}

/// A consumer that fails on what is secret, quoting it.
fn strict<DB: TestDatabase>(name: &str) -> (TestConsumer<DB>, Payloads) {
    recording_at_gate(name, &open(), Some(SECRET))
}

async fn secret<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    let event = NewEvent::new("User", "ada", "UserRegistered", SECRET)
        .metadata(Metadata::from_json_text(r#"{"ip":"10.0.0.7"}"#));
    db.append_event(event).await
}

async fn redact<DB: TestDatabase>(
    store: &EventStore<DB>,
    position: i64,
    redaction: impl Into<Redaction>,
) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    store.redact(&mut tx, position, redaction).await?;
    Ok(tx.commit().await?)
}

async fn event<DB: TestDatabase>(db: &Database<DB>, position: i64) -> consumer::PersistedEvent {
    let mut tx = db.store.begin().await.unwrap();
    let events = db.store.read_events(&mut tx, position - 1, 1).await;
    events.unwrap().remove(0)
}

async fn a_redaction_replaces_the_payload_and_nothing_else<DB: TestDatabase>(db: Database<DB>) {
    let position = secret(&db).await;
    let other = db.append_many(1).await[0];
    let before = event(&db, position).await;
    redact(&db.store, position, REDACTED).await.unwrap();
    let after = event(&db, position).await;
    assert_eq!(after.payload, REDACTED);
    assert_eq!(
        (
            &after.metadata,
            after.event_id,
            after.created_at,
            &after.event_type
        ),
        (
            &before.metadata,
            before.event_id,
            before.created_at,
            &before.event_type
        )
    );
    assert_eq!(after.aggregate_version, before.aggregate_version);
    assert_eq!(event(&db, other).await.payload, "0");
    // Bytes that are no text, too.
    redact(&db.store, position, vec![0_u8, 255]).await.unwrap();
    assert_eq!(event(&db, position).await.payload.as_ref(), [0, 255]);
}

async fn metadata_is_kept_replaced_or_removed<DB: TestDatabase>(db: Database<DB>) {
    let position = secret(&db).await;
    let replaced = Metadata::from_json_text(r#"{"redacted":true}"#);
    let replacing = Redaction::new(REDACTED).metadata(replaced);
    redact(&db.store, position, replacing).await.unwrap();
    let metadata = event(&db, position).await.metadata.clone().unwrap();
    let value: serde_json::Value = metadata.json().unwrap();
    assert_eq!(value, serde_json::json!({ "redacted": true }));
    let removing = Redaction::new(REDACTED).without_metadata();
    redact(&db.store, position, removing).await.unwrap();
    assert_eq!(event(&db, position).await.metadata, None);
}

async fn a_redaction_that_is_rolled_back_changes_nothing<DB: TestDatabase>(db: Database<DB>) {
    let position = secret(&db).await;
    let rewrites = "SELECT COALESCE(max(rewrites), 0) FROM consumer_log_state";
    let mut tx = db.store.begin().await.unwrap();
    db.store.redact(&mut tx, position, REDACTED).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(event(&db, position).await.payload, SECRET);
    assert_eq!(db.number(rewrites).await, 0);
}

async fn what_cannot_be_redacted_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let position = secret(&db).await;
    let missing = redact(&db.store, position + 1, REDACTED).await.unwrap_err();
    assert!(matches!(missing, StoreError::NoEvent { position: at } if at == position + 1));
    let broken = Redaction::new(REDACTED).metadata(Metadata::from_json_text("{"));
    let broken = redact(&db.store, position, broken).await.unwrap_err();
    assert!(
        matches!(broken, StoreError::InvalidMetadata { .. }),
        "{broken}"
    );
    assert_eq!(event(&db, position).await.payload, SECRET);
    let admin = Admin::new(db.store.clone());
    let missing = admin.redact(position + 1, REDACTED).await.unwrap_err();
    assert!(
        matches!(missing, AdminError::Store(StoreError::NoEvent { .. })),
        "{missing}"
    );
}

/// Without `redact`, which makes workers drop what they keep, the second consumer gets the old payload:
/// the control in `caches.rs` shows it.
async fn workers_drop_the_old_payload_of_a_redacted_event<DB: TestDatabase>(db: Database<DB>) {
    let first = secret(&db).await;
    let last = secret(&db).await;
    let gates = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
    let mut workers = Vec::new();
    for (number, gate) in gates.iter().enumerate() {
        // Each process has the log in memory.
        let (own, _) = recording_at_gate(&format!("own_{number}"), &open(), None);
        let (slow, payloads) = recording_at_gate(&format!("slow_{number}"), gate, None);
        let slow = slow
            .settings(Settings::default().batch_size(1))
            .without_tx();
        let store = EventStore::<DB>::connect(&db.url).await.unwrap();
        let process = Database::of(store, &db.url);
        let running = Running::start(process.worker().consumer(own).consumer(slow));
        let own = format!("own_{number}");
        let in_memory = running.consumer_caught_up_to(&own, last);
        patiently("the log is in memory", in_memory).await.unwrap();
        until("it has begun", async || !payloads.seen().is_empty()).await;
        workers.push((running, payloads));
    }
    redact(&db.store, last, REDACTED).await.unwrap();
    // A batch that is being handled has the old event, and only that one.
    let snapshots = "SELECT rewrites FROM consumer_log_state";
    assert_eq!(db.number(snapshots).await, 1);
    let admin = Admin::new(db.store.clone());
    for (number, (running, _)) in workers.iter().enumerate() {
        // When it next reads the checkpoints.
        let own = format!("own_{number}");
        admin.pause(&*own).await.unwrap();
        until("it has looked", async || {
            let consumers = running.consumers();
            let paused = consumers.iter().find(|one| *one.id.name == *own);
            paused.unwrap().state == consumer::ConsumerState::Paused
        })
        .await;
        admin.resume(&*own).await.unwrap();
    }
    for gate in &gates {
        gate.add_permits(10);
    }
    for (running, payloads) in workers {
        patiently("it handles the log", running.caught_up())
            .await
            .unwrap();
        running.stop().await;
        assert_eq!(payloads.by_position()[&first], SECRET);
        assert_eq!(payloads.by_position()[&last], REDACTED);
    }
}

async fn the_command_replaces_errors_that_may_quote_the_payload<DB: TestDatabase>(
    db: Database<DB>,
) {
    let position = secret(&db).await;
    let stopping = impatient().retries(0);
    let parking = stopping.clone().on_error(OnError::Park);
    let consumers = || {
        let (stops, _) = strict("stops");
        let (parks, _) = strict("parks");
        let worker = db.worker().consumer(stops.settings(stopping.clone()));
        worker.consumer(parks.settings(parking.clone()))
    };
    run_once(consumers()).await;
    let errors = "SELECT error FROM consumer_progress WHERE error IS NOT NULL
                  UNION ALL SELECT error FROM consumer_parked";
    let before = db.texts(errors).await;
    assert_eq!(before.len(), 2, "{before:?}");
    assert!(before.iter().all(|error| error.contains("ada@example.com")));

    let admin = consumers().admin().unwrap();
    admin.redact(position, REDACTED).await.unwrap();
    for error in db.texts(errors).await {
        assert_eq!(error, "the event was redacted after this failure");
    }
    let report = run_once(consumers()).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(admin.retry_parked("parks", None).await.unwrap().handled, 1);
}

async fn a_parked_event_is_retried_with_its_new_payload<DB: TestDatabase>(db: Database<DB>) {
    let position = secret(&db).await;
    let settings = impatient().retries(0).on_error(OnError::Park);
    let (parks, payloads) = strict("parks");
    let running = Running::start(db.worker().consumer(parks.settings(settings.clone())));
    patiently("it is parked", running.caught_up())
        .await
        .unwrap();
    redact(&db.store, position, REDACTED).await.unwrap();
    let (again, retried) = strict::<DB>("parks");
    let admin = db
        .worker()
        .consumer(again.settings(settings))
        .admin()
        .unwrap();
    assert_eq!(admin.retry_parked("parks", None).await.unwrap().handled, 1);
    assert_eq!(retried.seen(), [REDACTED]);
    running.stop().await;
    assert_eq!(payloads.seen(), [SECRET]);
}

async fn a_rebuild_after_a_redaction_gets_the_new_payload<DB: TestDatabase>(db: Database<DB>) {
    let position = secret(&db).await;
    let (users, payloads) = recording_at_gate("users", &open(), None);
    let running = Running::start(db.worker().consumer(users));
    patiently("it handles it", running.caught_up())
        .await
        .unwrap();
    redact(&db.store, position, REDACTED).await.unwrap();
    let admin = Admin::new(db.store.clone());
    let options = RebuildOptions::new().wait(std::time::Duration::from_secs(30));
    admin
        .rebuild("users", options.without_reset())
        .await
        .unwrap();
    until("it has it again", async || payloads.seen() == [REDACTED]).await;
    running.stop().await;
}

async fn errors_of_another_log_stay<DB: TestDatabase>(db: Database<DB>) {
    let position = secret(&db).await;
    let other = Schema::default()
        .events("other")
        .aggregate_heads("other_heads");
    let other = db.store.clone().with_schema(other).unwrap();
    let other = Database::of(other, &db.url);
    db.execute(&other.store.migration_sql()).await;
    let event = NewEvent::new("User", "ada", "UserRegistered", SECRET);
    other.append_event(event).await;
    let (stops, _) = strict("stops");
    let stops = stops.settings(impatient().retries(0));
    let worker = consumer::Worker::builder(other.store).consumer(stops);
    run_once(worker).await;
    let admin = Admin::new(db.store.clone());
    admin.redact(position, REDACTED).await.unwrap();
    let errors = db.texts("SELECT error FROM consumer_progress").await;
    assert!(errors[0].contains("ada@example.com"), "{errors:?}");
}

/// A database whose payloads are of another type than `BYTEA`.
async fn with_payloads_as(sql_type: SqlType) -> Database<Postgres> {
    let db = Database::fresh().await;
    let name = format!("{sql_type:?}").to_lowercase();
    db.execute(&format!(
        "ALTER TABLE events ALTER payload TYPE {name} USING convert_from(payload, 'UTF8')::{name}"
    ))
    .await;
    let schema = Schema::default().sql_type(Column::Payload, sql_type);
    let store = db.store.clone().with_schema(schema).unwrap();
    db.with_store(store)
}

/// The database would abort the caller's transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_its_column_cannot_hold_is_refused() {
    let invalid: [&[u8]; 4] = [b"{", b"\xff", b"\"\\ud800\"", b"{} {}"];
    let json = invalid.map(Vec::from);
    let refused = [
        (SqlType::Json, json.to_vec()),
        (
            SqlType::Jsonb,
            [&json[..], &[br#"{"a":"\u0000"}"#.to_vec()]].concat(),
        ),
        (SqlType::Text, vec![b"\xff".to_vec(), b"a\0b".to_vec()]),
    ];
    for (sql_type, payloads) in refused {
        let db = with_payloads_as(sql_type).await;
        let position = secret(&db).await;
        let mut tx = db.store.begin().await.unwrap();
        for payload in payloads {
            let error = db.store.redact(&mut tx, position, payload).await;
            let error = error.unwrap_err();
            let StoreError::UnfitRedaction { reason, .. } = &error else {
                panic!("{sql_type:?}: {error:?}")
            };
            let name = format!("{sql_type:?}").to_lowercase();
            assert!(reason.contains(&format!("of type {name}")), "{reason}");
        }
        let redacted = db.store.redact(&mut tx, position, REDACTED).await;
        redacted.expect("the transaction is not aborted");
        tx.commit().await.unwrap();
        let payload = String::from_utf8(event(&db, position).await.payload.to_vec()).unwrap();
        assert_eq!(payload.replace(' ', ""), REDACTED, "{sql_type:?}");
    }
}

/// The control: what the server says, and what becomes of the transaction.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_aborts_the_transaction_of_an_unfit_payload() {
    let db = with_payloads_as(SqlType::Jsonb).await;
    secret(&db).await;
    let mut tx = db.store.begin().await.unwrap();
    let unchecked = "UPDATE events SET payload = convert_from('{', 'UTF8')::jsonb";
    let update = sqlx::query(unchecked).execute(&mut *tx).await;
    update.unwrap_err();
    let error = db.store.redact(&mut tx, 1, REDACTED).await.unwrap_err();
    assert!(matches!(error, StoreError::Database(_)), "{error:?}");
}

async fn metadata_that_a_table_has_no_column_for_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let schema = Schema::default().without(Column::Metadata);
    let store = db.store.clone().with_schema(schema).unwrap();
    let position = db.append_many(1).await[0];
    let with_metadata = Redaction::new("{}").metadata(Metadata::from_json_text("{}"));
    let error = redact(&store, position, with_metadata).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::UnfitRedaction { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("leave `.metadata(…)` out"),
        "{error}"
    );
    assert_eq!(event(&db, position).await.payload, "0");
    // There is none to remove.
    let without = Redaction::new("{}").without_metadata();
    redact(&store, position, without).await.unwrap();
    assert_eq!(event(&db, position).await.payload, "{}");
}

async fn a_log_of_another_program_is_not_redacted<DB: TestDatabase>(db: Database<DB>) {
    let position = secret(&db).await;
    let schema = Schema::default().read_only();
    let store = db.store.clone().with_schema(schema).unwrap();
    let error = redact(&store, position, REDACTED).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnlyLog { .. }), "{error:?}");
    let error = Admin::new(store.clone()).redact(position, REDACTED).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, AdminError::Store(StoreError::ReadOnlyLog { .. })),
        "{error:?}"
    );
    let console = Console::captured(["n"]);
    let line = ["worker", "redact", &position.to_string(), "{}", "--yes"];
    let cli = Cli::try_parse_from(line).unwrap();
    let worker = Worker::builder(store).consumer(strict("c").0);
    let exit = cli.run_on(worker, &console).await;
    assert_eq!(exit, Exit::Refused, "{}", console.text());
    assert!(
        console.text().contains("is mapped as read-only"),
        "{}",
        console.text()
    );
    assert_eq!(event(&db, position).await.payload, SECRET);
}
