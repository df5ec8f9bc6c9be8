//! Events with unusual contents.

use consumer::{
    Backend, EventStore, ExpectedVersion, Metadata, NewEvent, OnError, PersistedEvent, ReadRange,
    StoreError,
};
use consumer_tests::{Database, TestDatabase, impatient, judging, noise, test_on};
use sqlx::{Postgres, Sqlite};

async fn round_trip<DB: Backend>(store: &EventStore<DB>, event: NewEvent) -> PersistedEvent {
    let stored = store
        .append(ExpectedVersion::NoStream, std::slice::from_ref(&event))
        .await
        .unwrap();
    let mut conn = store.pool().acquire().await.unwrap();
    let read = store
        .read_aggregate(
            &mut conn,
            &event.aggregate_type,
            &event.aggregate_id,
            None,
            None,
        )
        .await
        .unwrap();
    assert_eq!(read, stored);
    read.into_iter().next().unwrap()
}

test_on!(
    [sqlite, postgres],
    payloads_of_every_size_and_content_come_back_byte_for_byte,
    aggregate_ids_may_be_any_text,
    a_long_aggregate_id_that_compresses_is_stored,
    metadata_of_every_shape_comes_back_as_the_same_json,
    refused_metadata_leaves_the_transaction_usable,
    positions_up_to_the_largest_integer_are_read,
    an_exhausted_sequence_is_an_error_and_stores_nothing
);

async fn payloads_of_every_size_and_content_come_back_byte_for_byte<DB: TestDatabase>(
    db: Database<DB>,
) {
    let sizes = [0, 1, 1 << 20, 50 << 20];
    for (n, size) in sizes.into_iter().enumerate() {
        // Neither JSON nor UTF-8, with every byte there is.
        let payload: Vec<u8> = (0..=255).cycle().take(size).collect();
        let event = NewEvent::new("File", n.to_string(), "Uploaded", payload.clone());
        assert!(
            round_trip(&db.store, event).await.payload == payload,
            "{size} bytes"
        );
    }
}

async fn aggregate_ids_may_be_any_text<DB: TestDatabase>(db: Database<DB>) {
    let ids = [
        "",
        " ",
        "'",
        "\"",
        "`",
        "\\",
        "%",
        "'; DROP TABLE events; --",
        "{events}",
        "$1",
        "?1",
        "line\nfeed",
        "👩‍🚀",
        "e\u{301}",
        "é",
        "\u{feff}",
        "ZZZ",
        "zzz",
    ];
    for id in ids {
        let event = NewEvent::new(id, id, id, "")
            .trace_id(id)
            .correlation_id(id)
            .causation_id(id);
        let read = round_trip(&db.store, event).await;
        assert_eq!(
            (
                &*read.aggregate_type,
                &*read.aggregate_id,
                &*read.event_type
            ),
            (id, id, id)
        );
        assert_eq!(read.trace_id.as_deref(), Some(id));
        assert_eq!(read.correlation_id.as_deref(), Some(id));
        assert_eq!(read.causation_id.as_deref(), Some(id));
    }
}

async fn a_long_aggregate_id_that_compresses_is_stored<DB: TestDatabase>(db: Database<DB>) {
    let id = "long ".repeat(2_000);
    assert_eq!(
        round_trip(&db.store, NewEvent::new("User", id.as_str(), "E", ""))
            .await
            .aggregate_id,
        id
    );
    let error = db
        .store
        .append(
            ExpectedVersion::NoStream,
            &[NewEvent::new("User", id, "E", "")],
        )
        .await
        .unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
}

async fn metadata_of_every_shape_comes_back_as_the_same_json<DB: TestDatabase>(db: Database<DB>) {
    for (n, text) in [
        "null",
        "true",
        "0",
        "[]",
        "{}",
        r#""text""#,
        r#"{"a": {"b": [1, 2.5, "ü", "\n", null]}}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let event =
            NewEvent::new("M", n.to_string(), "E", "").metadata(Metadata::from_json_text(text));
        let read = db.append_events(&[event]).await;
        let metadata = read[0].metadata.clone().unwrap();
        let expected: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(metadata.json::<serde_json::Value>().unwrap(), expected);
        let mut conn = db.pool.acquire().await.unwrap();
        let read = db
            .store
            .read_aggregate(&mut conn, "M", &n.to_string(), None, None)
            .await
            .unwrap();
        assert_eq!(
            read[0]
                .metadata
                .as_ref()
                .unwrap()
                .json::<serde_json::Value>()
                .unwrap(),
            expected
        );
    }
}

async fn refused_metadata_leaves_the_transaction_usable<DB: TestDatabase>(db: Database<DB>) {
    let mut tx = db.store.begin().await.unwrap();
    let plain = || NewEvent::new("M", "m-1", "E", "");
    for (bytes, reason) in [
        (&b"\"\xff\""[..], "invalid utf-8"),
        (&b"{\"a\": \"\xc3\"}"[..], "invalid utf-8"),
        (&br#""\ud800""#[..], "hex escape"),
        (&br#"{"\udc00": 1}"#[..], "hex escape"),
        (&b"1e999"[..], "number out of range"),
        (&b"{"[..], "EOF"),
    ] {
        let events = [plain(), plain().metadata(Metadata::from_json_text(bytes))];
        let error = db
            .store
            .append_in(&mut tx, ExpectedVersion::Any, &events)
            .await
            .unwrap_err();
        assert!(
            matches!(error, StoreError::InvalidMetadata { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(reason), "{error}");
    }
    let kept = plain().metadata(Metadata::from_json_text(r#""\ud83d\ude00""#));
    db.store
        .append_in(&mut tx, ExpectedVersion::NoStream, &[plain(), kept])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    let read = db
        .store
        .read_aggregate(&mut conn, "M", "m-1", None, None)
        .await
        .unwrap();
    assert!(read[0].metadata.is_none());
    assert_eq!(
        read[1].metadata.as_ref().unwrap().json::<String>().unwrap(),
        "😀"
    );
}

async fn positions_up_to_the_largest_integer_are_read<DB: TestDatabase>(db: Database<DB>) {
    for position in [i64::MAX - 2, i64::MAX - 1, i64::MAX] {
        let sql = format!(
            "INSERT INTO events (global_position, aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload) \
             VALUES ({position}, 'User', 'u-1', {position}, '{}', 'E', '')",
            uuid::Uuid::new_v4()
        );
        db.execute(&sql).await;
    }
    let mut conn = db.pool.acquire().await.unwrap();
    assert_eq!(
        db.store.latest_global_position(&mut conn).await.unwrap(),
        i64::MAX
    );
    let range = ReadRange {
        after: i64::MAX - 2,
        up_to: i64::MAX,
        limit: u32::MAX,
        max_bytes: u64::MAX,
        scope: None,
    };
    let types = ["User".into()];
    for scope in [None, Some(&types[..])] {
        let events = db
            .store
            .read_range(&mut conn, ReadRange { scope, ..range })
            .await
            .unwrap();
        let positions: Vec<i64> = events.iter().map(|event| event.global_position).collect();
        assert_eq!(positions, [i64::MAX - 1, i64::MAX]);
    }
    assert_eq!(
        db.store
            .read_events(&mut conn, i64::MAX - 1, 10)
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(
        db.store
            .read_events(&mut conn, i64::MAX, 10)
            .await
            .unwrap()
            .is_empty()
    );
    drop(conn);
    // There is no version after the largest; no panic, and nothing stored.
    let event = NewEvent::new("User", "u-1", "E", "");
    db.store
        .append(ExpectedVersion::Any, &[event])
        .await
        .unwrap_err();
}

async fn an_exhausted_sequence_is_an_error_and_stores_nothing<DB: TestDatabase>(db: Database<DB>) {
    let exhausted = if DB::NAME == "PostgreSQL" {
        "SELECT setval('events_global_position_seq', 9223372036854775807)"
    } else {
        "INSERT INTO sqlite_sequence (name, seq) VALUES ('events', 9223372036854775807)"
    };
    db.execute(exhausted).await;
    let event = NewEvent::new("User", "u-1", "E", "");
    let error = db
        .store
        .append(ExpectedVersion::Any, &[event])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Database(_)), "{error:?}");
    let heads = db.number("SELECT count(*) FROM aggregate_heads").await;
    assert_eq!(heads, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_id_too_long_for_an_index_is_refused() {
    let db = Database::<Postgres>::fresh().await;
    let event = NewEvent::new("User", noise(10_000), "E", "");
    let error = db
        .store
        .append(ExpectedVersion::Any, &[event])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::IdTooLong { .. }), "{error:?}");
    assert!(error.to_string().contains("use a shorter id"), "{error}");
}

/// An id that Postgres can just store, since one character more is refused.
async fn append_the_longest_id(db: &Database<Postgres>) -> i64 {
    let noise = noise(2_800);
    for length in (2_500..noise.len()).rev() {
        let event = NewEvent::new("User", &noise[..length], "E", "");
        match db.store.append(ExpectedVersion::Any, &[event]).await {
            Ok(stored) => return stored[0].global_position,
            Err(StoreError::IdTooLong { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no id was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_id_and_the_longest_name_can_be_parked() {
    let db = Database::<Postgres>::fresh().await;
    let position = append_the_longest_id(&db).await;
    let name = noise(1_000)
        .replace(|c: char| !c.is_ascii_alphanumeric(), "")
        .split_off(255);
    let name = &name[..255];
    let failing = judging(name, |_, _| Err("never".to_owned()));
    let settings = impatient().retries(0).on_error(OnError::Park);
    db.run_once(failing.settings(settings)).await;
    assert_eq!(db.parked(name).await, [position]);
    assert_eq!(db.checkpoint(name).await, Some(position));
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_stores_any_aggregate_id_of_ten_thousand_characters() {
    let db = Database::<Sqlite>::fresh().await;
    let id = noise(10_000);
    let event = NewEvent::new("User", id.as_str(), "E", "");
    assert_eq!(round_trip(&db.store, event).await.aggregate_id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn nul_in_text_is_refused_before_postgres_aborts() {
    let db = Database::<Postgres>::fresh().await;
    let mut tx = db.store.begin().await.unwrap();
    let plain = || NewEvent::new("User", "u-1", "E", "");
    for (event, field) in [
        (NewEvent::new("a\0", "", "", ""), "the aggregate type"),
        (NewEvent::new("", "a\0", "", ""), "the aggregate id"),
        (NewEvent::new("", "", "a\0", ""), "the event type"),
        (plain().trace_id("\0"), "the trace id"),
        (plain().correlation_id("\0"), "the correlation id"),
        (plain().causation_id("\0"), "the causation id"),
    ] {
        let error = db
            .store
            .append_in(&mut tx, ExpectedVersion::Any, &[event])
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::NulInText { .. }), "{error:?}");
        assert!(
            error
                .to_string()
                .starts_with(&format!("{field} contains a NUL character")),
            "{error}"
        );
    }
    db.store
        .append_in(&mut tx, ExpectedVersion::Any, &[plain()])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    assert!(
        db.store
            .read_aggregate(&mut conn, "User", "a\0", None, None)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nul_in_metadata_is_refused_before_postgres_aborts() {
    let db = Database::<Postgres>::fresh().await;
    let mut tx = db.store.begin().await.unwrap();
    let plain = || NewEvent::new("User", "u-1", "E", "");
    for text in [r#"{"a": "\u0000"}"#, r#"{"\u0000": 1}"#] {
        let event = plain().metadata(Metadata::from_json_text(text));
        let error = db
            .store
            .append_in(&mut tx, ExpectedVersion::Any, &[event])
            .await
            .unwrap_err();
        let field = "the metadata";
        assert!(
            matches!(&error, StoreError::NulInText { field: f } if *f == field),
            "{error:?}"
        );
    }
    db.store
        .append_in(&mut tx, ExpectedVersion::Any, &[plain()])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_stores_nul_in_text() {
    let db = Database::<Sqlite>::fresh().await;
    let event = NewEvent::new("a\0b", "c\0d", "e\0f", "").trace_id("\0");
    let read = round_trip(&db.store, event).await;
    assert_eq!(
        (
            &*read.aggregate_type,
            &*read.aggregate_id,
            &*read.event_type
        ),
        ("a\0b", "c\0d", "e\0f")
    );
    assert_eq!(read.trace_id.as_deref(), Some("\0"));
    round_trip(&db.store, NewEvent::new("a\0b", "c\0other", "e", "")).await;
}
