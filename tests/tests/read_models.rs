//! Read models: their tables, their keys, and the limits of their batches.

use chrono::NaiveDate;
use consumer::admin::{Admin, ForgetOptions, RebuildOptions, ViewError};
use consumer::read_model::{
    self, ColumnError, ColumnNormalizer, ColumnReader, ColumnWriter, Table, TableColumn, Value,
};
use consumer::testing::ConsumerTest;
use consumer::{
    Consumer, Context, EventRecord, EventStore, HandlerError, NewEvent, OnError, PersistedEvent,
    ReadModel, Registered, TableError, WorkerError,
};
use consumer_tests::samples::{Action, Command, Sample, Samples, dump};
use consumer_tests::{
    Database, Folding, TestDatabase, folding, impatient, patiently, run_once, test_on,
};
use sqlx::{AssertSqlSafe, Connection as _, Postgres};
use uuid::Uuid;

/// A row with a number as its key.
#[derive(Clone, Debug, PartialEq)]
struct Counter {
    id: i64,
    count: i64,
    text: String,
}

impl ReadModel for Counter {
    type Key = i64;

    const TABLE: &'static Table = &Table::new(
        "counters",
        &[
            TableColumn::key::<i64>("id"),
            TableColumn::of::<i64>("count"),
            TableColumn::of::<String>("text"),
        ],
    );

    fn key(&self) -> i64 {
        self.id
    }

    fn to_values(&self, values: &mut Vec<Value>) -> Result<(), ColumnError> {
        let mut columns = ColumnWriter::new(Self::TABLE, values);
        columns
            .field(&self.id)?
            .field(&self.count)?
            .field(&self.text)?;
        Ok(())
    }

    fn from_values(values: Vec<Value>) -> Result<Self, ColumnError> {
        let mut columns = ColumnReader::new(Self::TABLE, values);
        Ok(Self {
            id: columns.field()?,
            count: columns.field()?,
            text: columns.field()?,
        })
    }

    fn normalize(&mut self) -> Result<(), ColumnError> {
        let mut columns = ColumnNormalizer::new(Self::TABLE);
        columns
            .field(&mut self.id)?
            .field(&mut self.count)?
            .field(&mut self.text)?;
        Ok(())
    }
}

/// A row with a key of three columns.
#[derive(Debug)]
struct Visit {
    day: NaiveDate,
    user: Uuid,
    place: String,
    count: i32,
}

impl ReadModel for Visit {
    type Key = (NaiveDate, Uuid, String);

    const TABLE: &'static Table = &Table::new(
        "visits",
        &[
            TableColumn::key::<NaiveDate>("day"),
            TableColumn::of::<i32>("count"),
            TableColumn::key::<Uuid>("user"),
            TableColumn::key::<String>("the \"place\""),
        ],
    );

    fn key(&self) -> Self::Key {
        (self.day, self.user, self.place.clone())
    }

    fn to_values(&self, values: &mut Vec<Value>) -> Result<(), ColumnError> {
        let mut columns = ColumnWriter::new(Self::TABLE, values);
        columns
            .field(&self.day)?
            .field(&self.count)?
            .field(&self.user)?
            .field(&self.place)?;
        Ok(())
    }

    fn from_values(values: Vec<Value>) -> Result<Self, ColumnError> {
        let mut columns = ColumnReader::new(Self::TABLE, values);
        Ok(Self {
            day: columns.field()?,
            count: columns.field()?,
            user: columns.field()?,
            place: columns.field()?,
        })
    }

    fn normalize(&mut self) -> Result<(), ColumnError> {
        let mut columns = ColumnNormalizer::new(Self::TABLE);
        columns
            .field(&mut self.day)?
            .field(&mut self.count)?
            .field(&mut self.user)?
            .field(&mut self.place)?;
        Ok(())
    }
}

/// A row with a column that rounds.
#[derive(Debug)]
struct Price {
    id: i64,
    amount: String,
}

impl ReadModel for Price {
    type Key = i64;

    const TABLE: &'static Table = &Table::new(
        "prices",
        &[
            TableColumn::key::<i64>("id"),
            TableColumn::other("amount", "numeric(20, 1)", true),
        ],
    );

    fn key(&self) -> i64 {
        self.id
    }

    fn to_values(&self, values: &mut Vec<Value>) -> Result<(), ColumnError> {
        ColumnWriter::new(Self::TABLE, values)
            .field(&self.id)?
            .text(Some(&self.amount));
        Ok(())
    }

    fn from_values(values: Vec<Value>) -> Result<Self, ColumnError> {
        let mut columns = ColumnReader::new(Self::TABLE, values);
        Ok(Self {
            id: columns.field()?,
            amount: columns.text()?,
        })
    }

    fn normalize(&mut self) -> Result<(), ColumnError> {
        let mut columns = ColumnNormalizer::new(Self::TABLE);
        columns.field(&mut self.id)?.text(Some(&mut self.amount))?;
        Ok(())
    }
}

/// Counts the events of each aggregate, whose id is a number.
fn counters() -> Folding<Counter> {
    folding(
        "counters",
        |_, event, keys| keys.add_aggregate(event),
        |_, event, rows| count(event.aggregate_id.parse()?, rows),
    )
}

/// Counts one more in the row of this key.
fn count(id: i64, rows: &mut read_model::Rows<'_, Counter>) -> Result<(), HandlerError> {
    let text = String::new();
    let new = Counter { id, count: 0, text };
    rows.row(&id)?.get_or_insert(new).count += 1;
    Ok(())
}

/// The counts of the first version's table.
async fn counts<DB: TestDatabase>(db: &Database<DB>) -> Vec<i64> {
    let rows = db.rows::<Counter>(1).await;
    rows.values().map(|row| row.count).collect()
}

fn samples() -> Samples {
    Samples {
        many_rows: false,
        settings: impatient().retries(0),
    }
}

fn command(action: Action, number: i64) -> Command {
    Command {
        action,
        keys: Vec::new(),
        text: Some("text".into()),
        note: None,
        bits: 1.5_f64.to_bits(),
        seconds: 1,
        days: 1,
        number,
    }
}

/// The error with which a worker does not start.
async fn refusal<DB: TestDatabase>(db: &Database<DB>, consumer: impl Consumer<DB>) -> TableError {
    let worker = db.worker().consumer(consumer).build().unwrap();
    match patiently("the worker ends", worker.run_once()).await {
        Err(WorkerError::Table(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

/// Appends an event for each id, and folds all of them at once.
fn changed(ids: impl IntoIterator<Item = i64>) -> Vec<PersistedEvent> {
    let events = (1..).zip(ids).map(|(global_position, id)| {
        PersistedEvent::new(EventRecord {
            global_position,
            aggregate_id: id.to_string(),
            ..EventRecord::default()
        })
    });
    events.collect()
}

async fn fold<DB: TestDatabase>(
    db: &Database<DB>,
    fold: &Folding<Counter>,
    events: &[PersistedEvent],
) -> usize {
    let mut connection = db.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let cx = Context::new("counters");
    let handled = read_model::fold_batch::<DB, _>(fold, &cx, &mut tx, events).await;
    tx.commit().await.unwrap();
    handled.unwrap()
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    two_workers_that_start_at_once_create_one_table,
    keys_of_several_columns_name_their_rows,
    a_rebuild_empties_the_table_and_fills_it_again,
    each_version_writes_a_table_of_its_own
);

test_on!(
    [sqlite, postgres],
    a_table_that_differs_is_refused_with_every_difference,
    a_view_in_place_of_the_table_is_refused,
    with_segments_an_aggregate_shares_no_row_with_another,
    without_segments_two_spellings_of_a_key_share_a_row,
    a_row_that_is_required_and_missing_is_named,
    a_parked_event_that_is_retried_changes_its_row,
    a_batch_ends_before_too_many_rows,
    a_batch_ends_before_rows_that_are_too_large,
    a_row_larger_than_a_batch_may_be_is_folded_alone,
    rows_that_were_slow_to_load_are_not_loaded_for_one_event,
    a_request_to_stop_ends_a_batch_early,
    two_consumers_with_one_table_are_refused,
    the_test_kit_creates_the_table_and_reads_its_rows,
    a_row_is_found_by_its_key
);

async fn two_workers_that_start_at_once_create_one_table<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["1", "2", "1"]).await;
    let workers = [(); 4].map(|()| run_once(db.worker().consumer(counters())));
    futures_util::future::join_all(workers).await;
    assert_eq!(counts(&db).await, [2, 1]);
}

async fn a_table_that_differs_is_refused_with_every_difference<DB: TestDatabase>(db: Database<DB>) {
    db.execute(
        "CREATE TABLE samples_v1 (id BIGINT, text TEXT NOT NULL PRIMARY KEY, flag BOOLEAN, x TEXT)",
    )
    .await;
    let refused = refusal(&db, samples().folding()).await;
    let TableError::Differs { differences, .. } = &refused else {
        panic!("{refused}");
    };
    for expected in [
        "the column `text` may not be NULL",
        "the column `flag` may be NULL",
        "the column `amount` is missing",
        "the column `x` has no field",
        "the primary key is (text) and not (id)",
    ] {
        assert!(
            differences.iter().any(|one| one == expected),
            "{expected} in {differences:#?}"
        );
    }
    assert!(
        differences
            .iter()
            .any(|one| one.starts_with("the column `id` has the type"))
    );
    assert_eq!(differences.len(), 6 + 13, "{differences:#?}");
    assert!(refused.to_string().contains("`version = 2`"), "{refused}");
}

async fn a_view_in_place_of_the_table_is_refused<DB: TestDatabase>(db: Database<DB>) {
    db.execute("CREATE VIEW counters_v1 AS SELECT 1 AS id")
        .await;
    let refused = refusal(&db, counters()).await;
    assert!(matches!(refused, TableError::Obstacle { .. }), "{refused}");
}

async fn keys_of_several_columns_name_their_rows<DB: TestDatabase>(db: Database<DB>) {
    let key = |event: &PersistedEvent| {
        let (user, place) = event.aggregate_id.split_once('/').unwrap();
        let day = NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
        (
            day,
            Uuid::from_u128(user.parse().unwrap()),
            place.to_owned(),
        )
    };
    let visits = || {
        folding::<Visit>(
            "visits",
            move |_, event, keys| keys.add(key(event)),
            move |_, event, rows| {
                let key = key(event);
                let row = rows.row(&key)?;
                let (day, user, place) = key;
                let count = row.as_ref().map_or(1, |row| row.count + 1);
                let new = Visit {
                    day,
                    user,
                    place,
                    count,
                };
                *row = (count < 3).then_some(new);
                Ok(())
            },
        )
    };
    // One batch, then rows that exist: one is removed by its third event, one is changed.
    db.append("Visit", ["1/a", "1/b", "2/a", "1/a", "2/", "2/'\""])
        .await;
    run_once(db.worker().consumer(visits())).await;
    db.append("Visit", ["1/a", "1/b"]).await;
    run_once(db.worker().consumer(visits())).await;
    let rows = db.rows::<Visit>(1).await;
    let counts: Vec<(u128, &str, i32)> = rows
        .values()
        .map(|row| (row.user.as_u128(), row.place.as_str(), row.count))
        .collect();
    assert_eq!(
        counts,
        [(1, "b", 2), (2, "", 1), (2, "'\"", 1), (2, "a", 1)]
    );
}

async fn a_rebuild_empties_the_table_and_fills_it_again<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["1", "2", "1"]).await;
    run_once(db.worker().consumer(counters())).await;
    let before = db.rows::<Counter>(1).await;
    db.execute("UPDATE counters_v1 SET count = 7").await;
    let admin = db.worker().consumer(counters()).admin().unwrap();
    admin
        .rebuild("counters", RebuildOptions::new())
        .await
        .unwrap();
    assert!(db.rows::<Counter>(1).await.is_empty());
    run_once(db.worker().consumer(counters())).await;
    assert_eq!(db.rows::<Counter>(1).await, before);
}

async fn each_version_writes_a_table_of_its_own<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["1"]).await;
    run_once(db.worker().consumer(counters())).await;
    db.append("User", ["1"]).await;
    run_once(
        db.worker()
            .registered(Registered::new(counters()).version(2)),
    )
    .await;
    let count = async |version| db.rows::<Counter>(version).await[&1].count;
    assert_eq!((count(1).await, count(2).await), (1, 2));
}

async fn with_segments_an_aggregate_shares_no_row_with_another<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["7", "007"]).await;
    let divided = counters().settings(impatient().retries(0).segments(2));
    let report = run_once(db.worker().consumer(divided)).await;
    let report = report.to_string();
    assert!(report.contains("`007`"), "{report}");
    let by_key = folding::<Counter>("by_key", |_, _, keys| keys.add(7), |_, _, _| Ok(()));
    let admin = Admin::new(db.store.clone());
    let forget = admin.forget("counters", ForgetOptions::new().discard_parked());
    forget.await.unwrap();
    let divided = by_key.settings(impatient().retries(0).segments(2));
    let report = run_once(db.worker().consumer(divided)).await;
    assert!(report.to_string().contains("remove `segments`"), "{report}");
}

async fn without_segments_two_spellings_of_a_key_share_a_row<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["7", "007"]).await;
    run_once(db.worker().consumer(counters())).await;
    let rows = db.rows::<Counter>(1).await;
    assert_eq!((rows.len(), rows[&7].count), (1, 2));
}

async fn a_row_that_is_required_and_missing_is_named<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["7"]).await;
    let requires = folding::<Counter>(
        "requires",
        |_, event, keys| keys.add_aggregate(event),
        |_, _, rows| {
            rows.existing(&7)?.count += 1;
            Ok(())
        },
    );
    let requires = requires.settings(impatient().retries(0));
    let report = run_once(db.worker().consumer(requires)).await;
    let report = report.to_string();
    assert!(report.contains("`counters` has no row `7`"), "{report}");
}

async fn a_parked_event_that_is_retried_changes_its_row<DB: TestDatabase>(db: Database<DB>) {
    let parks = |fails: bool| {
        let apply =
            move |_: &Context, event: &PersistedEvent, rows: &mut read_model::Rows<'_, Counter>| {
                let id = event.aggregate_id.parse()?;
                if fails && id == 1 {
                    return Err("it fails".into());
                }
                count(id, rows)
            };
        folding(
            "counters",
            |_, event, keys| keys.add_aggregate(event),
            apply,
        )
        .settings(impatient().retries(0).on_error(OnError::Park))
    };
    let positions = db.append("User", ["1", "2", "1"]).await;
    run_once(db.worker().consumer(parks(true))).await;
    assert_eq!(db.parked("counters").await, [positions[0], positions[2]]);
    let admin = db.worker().consumer(parks(false)).admin().unwrap();
    admin.retry_parked("counters", None).await.unwrap();
    assert_eq!(counts(&db).await, [2, 1]);
}

async fn a_batch_ends_before_too_many_rows<DB: TestDatabase>(db: Database<DB>) {
    run_once(db.worker().consumer(counters())).await;
    let events = changed((0..50_001).chain(0..2));
    assert_eq!(fold(&db, &counters(), &events).await, 50_000);
    assert_eq!(fold(&db, &counters(), &events[50_000..]).await, 3);
    assert_eq!(
        db.number("SELECT CAST(sum(count) AS bigint) FROM counters_v1")
            .await,
        50_003
    );
}

/// Rows of this size, as many as there are ids.
async fn with_texts<DB: TestDatabase>(db: &Database<DB>, bytes: usize, ids: i64) {
    run_once(db.worker().consumer(counters())).await;
    let fill = folding(
        "counters",
        |_, event, keys| keys.add_aggregate(event),
        move |_, event, rows| {
            let id = event.aggregate_id.parse()?;
            let text = "x".repeat(bytes);
            rows.put(&id, Counter { id, count: 0, text })
        },
    );
    for id in 0..ids {
        assert_eq!(fold(db, &fill, &changed([id])).await, 1);
    }
}

async fn a_batch_ends_before_rows_that_are_too_large<DB: TestDatabase>(db: Database<DB>) {
    with_texts(&db, 1 << 20, 40).await;
    let events = changed((0..40).chain(0..40));
    let handled = fold(&db, &counters(), &events).await;
    assert!((8..=16).contains(&handled), "{handled}");
}

async fn a_row_larger_than_a_batch_may_be_is_folded_alone<DB: TestDatabase>(db: Database<DB>) {
    with_texts(&db, 20 << 20, 2).await;
    let events = changed([0, 0, 1]);
    assert_eq!(fold(&db, &counters(), &events).await, 2);
    assert_eq!(fold(&db, &counters(), &events[2..]).await, 1);
}

/// Is asked to stop at an event, after doing something else.
fn stopping_at(position: i64, before: fn()) -> Folding<Counter> {
    folding(
        "counters",
        move |cx, event, keys| {
            if event.global_position == position {
                before();
                cx.request_stop();
            }
            keys.add_aggregate(event)
        },
        |_, _, _| Ok(()),
    )
}

async fn rows_that_were_slow_to_load_are_not_loaded_for_one_event<DB: TestDatabase>(
    db: Database<DB>,
) {
    run_once(db.worker().consumer(counters())).await;
    let slow = stopping_at(100, || {
        std::thread::sleep(std::time::Duration::from_millis(500));
    });
    assert_eq!(fold(&db, &slow, &changed(0..100)).await, 100);
}

async fn a_request_to_stop_ends_a_batch_early<DB: TestDatabase>(db: Database<DB>) {
    run_once(db.worker().consumer(counters())).await;
    assert_eq!(fold(&db, &stopping_at(3, || ()), &changed(0..100)).await, 3);
}

async fn two_consumers_with_one_table_are_refused<DB: TestDatabase>(db: Database<DB>) {
    let other = folding::<Counter>("other", |_, _, _| Ok(()), |_, _, _| Ok(()));
    let refused = db.worker().consumer(counters()).consumer(other).build();
    let Err(refused) = refused else {
        panic!("two consumers have one table");
    };
    let refused = refused.to_string();
    assert!(refused.contains("`counters` and `other`"), "{refused}");
}

async fn the_test_kit_creates_the_table_and_reads_its_rows<DB: TestDatabase>(db: Database<DB>) {
    let tx = db.store.begin().await.unwrap();
    let mut test = ConsumerTest::within(tx, Registered::new(counters()));
    test.given_all(["2", "1", "2"].map(|id| NewEvent::new("User", id, "Changed", "{}")));
    test.when().await.unwrap();
    let rows: Vec<(i64, i64)> = test
        .rows::<Counter>()
        .await
        .unwrap()
        .iter()
        .map(|row| (row.id, row.count))
        .collect();
    assert_eq!(rows, [(1, 1), (2, 2)]);
    test.reset().await.unwrap();
    assert!(test.rows::<Counter>().await.unwrap().is_empty());
}

async fn a_row_is_found_by_its_key<DB: TestDatabase>(db: Database<DB>)
where
    for<'c> &'c mut DB::Connection: sqlx::Acquire<'c, Database = DB>,
{
    let put = command(Action::Put, 5);
    db.append_event(put.event("a")).await;
    run_once(db.worker().consumer(samples().folding())).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let found = Sample::find(&mut *connection, "a").await.unwrap();
    let rows = db.rows::<Sample>(1).await;
    assert_eq!(dump(&found.unwrap()), dump(&rows["a"]));
    // By reference, and by value.
    let key = "a".to_owned();
    let found = Sample::find(&mut *connection, &key).await.unwrap();
    assert!(found.is_some());
    let found = db.store.find::<Sample>(key).await.unwrap();
    assert!(found.is_some());
    let found = Sample::find(&mut *connection, "b").await.unwrap();
    assert!(found.is_none());
}

test_on!(
    [postgres],
    a_role_that_may_not_create_gets_the_statements,
    a_role_that_may_not_create_the_view_gets_its_statement,
    the_printed_script_is_all_that_such_a_role_needs,
    a_row_that_no_event_changes_is_not_written,
    a_value_that_the_database_rounds_fails_its_event,
    the_search_path_of_a_session_moves_no_table,
    a_table_with_row_level_security_is_refused
);

/// The database as a role that may not create tables, and has the library's.
async fn restricted(db: &Database<Postgres>) -> Database<Postgres> {
    let role = format!("app_{}", fastrand::u64(..));
    db.execute(&format!(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE {role} LOGIN;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
    ))
    .await;
    let url = db.url.replace("postgres@", &format!("{role}@"));
    let store = EventStore::<Postgres>::connect(&url).await.unwrap();
    Database::of(store, &url)
}

async fn the_printed_script_is_all_that_such_a_role_needs(db: Database<Postgres>) {
    let restricted = restricted(&db).await;
    let worker = || restricted.worker().consumer(samples().folding());
    let script = worker().admin().unwrap().migration_sql();
    let role = restricted.texts("SELECT current_user::text").await;
    let grant = format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON samples, samples_v1 TO {}",
        role[0]
    );
    db.execute(&format!("{script} {grant}")).await;
    db.append_event(command(Action::Put, 5).event("a")).await;
    run_once(worker()).await;
    let found = Sample::find(&restricted.pool, "a").await;
    assert!(found.unwrap().is_some());
}

async fn a_role_that_may_not_create_gets_the_statements(db: Database<Postgres>) {
    let restricted = restricted(&db).await;
    db.append_event(command(Action::Put, 5).event("a")).await;
    let refused = refusal(&restricted, samples().folding()).await;
    let TableError::MayNotCreate { sql, .. } = &refused else {
        panic!("{refused}");
    };
    let text = refused.to_string();
    assert!(text.contains("start the worker again"), "{text}");
    db.execute(sql).await;
    run_once(restricted.worker().consumer(samples().folding())).await;
    // It may read the view, too.
    let found = Sample::find(&restricted.pool, "a").await;
    assert!(found.unwrap().is_some());
}

async fn a_role_that_may_not_create_the_view_gets_its_statement(db: Database<Postgres>) {
    run_once(db.worker().consumer(samples().folding())).await;
    let restricted = restricted(&db).await;
    db.append_event(command(Action::Put, 5).event("a")).await;
    db.execute("DROP VIEW samples").await;
    let worker = restricted.worker().consumer(samples().folding());
    let refused = worker.build().unwrap().run_once().await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("start the worker again"), "{text}");
    let WorkerError::View(ViewError::MayNotCreate { sql, .. }) = refused else {
        panic!("{text}");
    };
    db.execute(&sql).await;
    run_once(restricted.worker().consumer(samples().folding())).await;
    let found = Sample::find(&restricted.pool, "a").await;
    assert!(found.unwrap().is_some());
}

async fn a_row_that_no_event_changes_is_not_written(db: Database<Postgres>) {
    let writer = "SELECT xmin::text::bigint FROM samples_v1";
    db.append_event(command(Action::Put, 5).event("a")).await;
    run_once(db.worker().consumer(samples().folding())).await;
    let before = db.number(writer).await;
    // Its handler changes the row, and changes it back.
    db.append_event(command(Action::ChangeBack, 5).event("a"))
        .await;
    run_once(db.worker().consumer(samples().folding())).await;
    assert_eq!(db.number(writer).await, before);
    db.append_event(command(Action::Change, 5).event("a")).await;
    run_once(db.worker().consumer(samples().folding())).await;
    assert_ne!(db.number(writer).await, before);
}

async fn a_value_that_the_database_rounds_fails_its_event(db: Database<Postgres>) {
    let prices = folding::<Price>(
        "prices",
        |_, event, keys| keys.add_aggregate(event),
        |_, event, rows| {
            let id = event.aggregate_id.parse()?;
            let amount = if id == 3 { "1.25" } else { "1.5" }.to_owned();
            rows.put(&id, Price { id, amount })
        },
    );
    let positions = db.append("Price", ["1", "2", "3", "4"]).await;
    let prices = prices.settings(impatient().retries(0));
    let report = run_once(db.worker().consumer(prices)).await;
    let report = report.to_string();
    for part in ["row `3`", "column `amount` of `prices`", "`1.25`", "`1.3`"] {
        assert!(report.contains(part), "no {part} in {report}");
    }
    assert_eq!(db.checkpoint("prices").await, Some(positions[1]));
    assert_eq!(db.rows::<Price>(1).await.len(), 2);
}

async fn the_search_path_of_a_session_moves_no_table(db: Database<Postgres>) {
    db.append("User", ["1"]).await;
    run_once(db.worker().consumer(counters())).await;
    db.append("User", ["1"]).await;
    db.execute(
        "CREATE SCHEMA other; CREATE TABLE other.counters_v1 (LIKE counters_v1 INCLUDING ALL)",
    )
    .await;
    let worker = db.worker().consumer(MovesPath(counters()));
    run_once(worker).await;
    assert_eq!(db.rows::<Counter>(1).await[&1].count, 2);
    assert_eq!(db.number("SELECT count(*) FROM other.counters_v1").await, 0);
}

/// Puts another schema first before it folds.
struct MovesPath(Folding<Counter>);

impl Consumer<Postgres> for MovesPath {
    fn name(&self) -> &str {
        "counters"
    }

    async fn handle(
        &self,
        cx: &Context,
        tx: &mut sqlx::PgConnection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let path = "SET LOCAL search_path TO other, public";
        sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut *tx).await?;
        Consumer::<Postgres>::handle(&self.0, cx, tx, event).await
    }

    fn read_model(&self) -> Option<&'static Table> {
        Some(Counter::TABLE)
    }
}

async fn a_table_with_row_level_security_is_refused(db: Database<Postgres>) {
    run_once(db.worker().consumer(counters())).await;
    db.execute("ALTER TABLE counters_v1 ENABLE ROW LEVEL SECURITY")
        .await;
    let refused = refusal(&db, counters()).await;
    assert!(matches!(refused, TableError::Obstacle { .. }), "{refused}");
}
