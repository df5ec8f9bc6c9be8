//! Errors count against the event, the connection or the handler that caused them, including those of a
//! COMMIT.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use consumer::admin::{AdminError, RebuildOptions};
use consumer::{
    Consumer, ConsumerState, Context, HandlerError, NewEvent, OnError, PersistedEvent, Report,
};
use consumer_tests::{
    Database, Running, TestConsumer, TestDatabase, consumer, impatient, patiently, read_model,
    run_once, test_on,
};
use sqlx::{Connection as _, Postgres};

test_on!(
    [sqlite, postgres, through_a_pooler],
    an_event_that_breaks_a_deferred_constraint_is_parked,
    an_event_that_breaks_a_deferred_constraint_is_skipped,
    events_before_a_broken_deferred_constraint_are_saved,
    the_effects_of_a_refused_commit_do_not_run,
    a_retry_parks_the_event_that_breaks_a_deferred_constraint,
    a_reset_that_breaks_a_deferred_constraint_changes_nothing,
    a_nested_transaction_that_stays_open_stops_its_consumer,
    a_nested_transaction_left_open_by_an_error_is_rolled_back,
    a_nested_transaction_that_is_dropped_is_rolled_back,
    after_a_leaked_nested_transaction_other_consumers_run
);

test_on!(
    [postgres],
    a_migrated_read_model_costs_no_event_an_attempt,
    a_plan_made_stale_by_the_handler_itself_counts
);

test_on!(
    [through_a_pooler],
    behind_a_pooler_a_query_needs_no_special_care
);

test_on!(
    [postgres, through_a_pooler],
    a_handler_that_leaves_its_transaction_unusable_fails,
    a_batch_that_fails_only_as_a_whole_counts_no_attempt,
    a_commit_that_cannot_be_serialized_counts_no_attempt,
    a_save_that_the_server_fails_counts_no_attempt,
    a_handler_may_have_all_constraints_checked_at_once
);

/// A read model of orders; a foreign key that is checked by the COMMIT wants the customer that an
/// order's id begins with.
async fn orders<DB: TestDatabase>(db: &Database<DB>) -> TestConsumer<DB> {
    db.execute(
        "CREATE TABLE customers (id TEXT PRIMARY KEY);
         CREATE TABLE orders (customer TEXT REFERENCES customers (id) DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO customers VALUES ('known');",
    )
    .await;
    consumer("orders", |_, tx, event| {
        let customer = event.aggregate_id.split('-').next().unwrap_or_default();
        let insert = format!("INSERT INTO orders VALUES ('{customer}')");
        Box::pin(async move {
            DB::execute_sql(tx, &insert).await?;
            Ok(DB::apply(tx, "orders", event).await?)
        })
    })
}

fn stopped_at(report: &Report, consumer: &str) -> (Option<i64>, String) {
    match &report.consumer(consumer).unwrap().state {
        ConsumerState::Stopped { position, error } => (*position, error.clone()),
        other => panic!("{consumer} is {other}"),
    }
}

async fn an_event_that_breaks_a_deferred_constraint_is_parked<DB: TestDatabase>(db: Database<DB>) {
    let orders = orders(&db).await;
    let placed = ["known-1", "unknown-2", "known-3", "known-4"];
    let positions = db.append("Order", placed).await;
    let settings = impatient().retries(2).on_error(OnError::Park);
    let report = db.run_once(orders.settings(settings)).await;
    assert!(!report.has_failures(), "{report}");
    let parked = "SELECT position FROM consumer_parked";
    assert_eq!(db.numbers(parked).await, positions[1..2]);
    let attempts = "SELECT CAST(attempts AS BIGINT) FROM consumer_parked";
    assert_eq!(db.numbers(attempts).await, [3]);
    let others = [positions[0], positions[2], positions[3]];
    assert_eq!(db.applied("orders").await, others);
}

async fn an_event_that_breaks_a_deferred_constraint_is_skipped<DB: TestDatabase>(db: Database<DB>) {
    let orders = orders(&db).await;
    let placed = ["unknown-1", "known-2", "unknown-3", "known-4"];
    let positions = db.append("Order", placed).await;
    let settings = impatient().retries(1).on_error(OnError::Skip);
    let report = db.run_once(orders.settings(settings)).await;
    assert_eq!(report.consumer("orders").unwrap().skipped, 2, "{report}");
    assert_eq!(db.applied("orders").await, [positions[1], positions[3]]);
}

async fn events_before_a_broken_deferred_constraint_are_saved<DB: TestDatabase>(db: Database<DB>) {
    let orders = orders(&db).await;
    let placed = ["known-1", "known-2", "unknown-3", "known-4"];
    let positions = db.append("Order", placed).await;
    let report = db.run_once(orders.settings(impatient().retries(1))).await;
    let (position, error) = stopped_at(&report, "orders");
    assert_eq!(position, Some(positions[2]), "{error}");
    assert!(error.to_lowercase().contains("foreign key"), "{error}");
    assert_eq!(db.applied("orders").await, positions[..2]);
    assert_eq!(db.checkpoint("orders").await, Some(positions[1]));
}

async fn the_effects_of_a_refused_commit_do_not_run<DB: TestDatabase>(db: Database<DB>) {
    orders(&db).await;
    let effects: Arc<Mutex<Vec<i64>>> = Arc::default();
    let done = Arc::clone(&effects);
    let orders = consumer("orders", move |cx, tx, event| {
        let insert = format!("INSERT INTO orders VALUES ('{}')", event.aggregate_id);
        let (done, position) = (Arc::clone(&done), event.global_position);
        cx.after_commit(async move { done.lock().unwrap().push(position) });
        Box::pin(async move { Ok(DB::execute_sql(tx, &insert).await?) })
    });
    let positions = db.append("Order", ["known", "unknown"]).await;
    let settings = impatient().retries(1).on_error(OnError::Skip);
    db.run_once(orders.settings(settings)).await;
    assert_eq!(*effects.lock().unwrap(), positions[..1]);
}

async fn a_retry_parks_the_event_that_breaks_a_deferred_constraint<DB: TestDatabase>(
    db: Database<DB>,
) {
    orders(&db).await;
    let orders = || {
        let orders = consumer("orders", |_, tx, event| {
            let insert = format!("INSERT INTO orders VALUES ('{}')", event.event_type);
            Box::pin(async move {
                DB::execute_sql(tx, &insert).await?;
                Ok(DB::apply(tx, "orders", event).await?)
            })
        });
        orders.settings(impatient().retries(0).on_error(OnError::Park))
    };
    let event = |id, customer| NewEvent::new("Order", id, customer, "{}");
    for [id, customer] in [
        ["a", "late"],
        ["a", "late"],
        ["a", "never"],
        ["a", "late"],
        ["b", "late"],
    ] {
        db.append_event(event(id, customer)).await;
    }
    let positions = db.log().await;
    let worker = || db.worker().consumer(orders());
    run_once(worker()).await;
    assert_eq!(db.applied("orders").await, [0; 0]);
    db.execute("INSERT INTO customers VALUES ('late')").await;

    let retried = worker().admin().unwrap().retry_parked("orders", None).await;
    let retried = retried.unwrap();
    assert_eq!(retried.handled, 3);
    let [AdminError::Retry { position, source }] = &*retried.failed else {
        panic!("{:?}", retried.failed);
    };
    assert_eq!(*position, positions[2]);
    let reason = source.to_string();
    let expected = "the changes of the handler could not be committed: ";
    assert!(reason.starts_with(expected), "{reason}");
    let applied = [positions[0], positions[1], positions[4]];
    assert_eq!(db.applied("orders").await, applied);
    let parked = "SELECT position FROM consumer_parked ORDER BY position";
    assert_eq!(db.numbers(parked).await, positions[2..4]);
}

/// The consumer `orders`, whose `reset` leaves an order without a customer.
struct BrokenReset;

impl<DB: TestDatabase> Consumer<DB> for BrokenReset {
    fn name(&self) -> &str {
        "orders"
    }

    fn can_reset(&self) -> bool {
        true
    }

    async fn handle(
        &self,
        _cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(DB::apply(tx, "orders", event).await?)
    }

    async fn reset(&self, _cx: &Context, tx: &mut DB::Connection) -> Result<(), HandlerError> {
        DB::execute_sql(tx, "INSERT INTO orders VALUES ('never')").await?;
        Ok(())
    }
}

async fn a_reset_that_breaks_a_deferred_constraint_changes_nothing<DB: TestDatabase>(
    db: Database<DB>,
) {
    orders(&db).await;
    let positions = db.append("Order", ["known-1"]).await;
    let worker = || db.worker().consumer(BrokenReset);
    run_once(worker()).await;
    let admin = worker().admin().unwrap();
    match admin.rebuild("orders", RebuildOptions::new()).await {
        Err(AdminError::Reset { source, .. }) => {
            let reason = source.to_string();
            assert!(reason.contains("could not be committed"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(db.checkpoint("orders").await, Some(positions[0]));
    assert_eq!(db.applied("orders").await, positions);
}

/// Two events that can only be committed apart, with a policy that would drop what fails.
async fn a_batch_that_fails_only_as_a_whole_counts_no_attempt(db: Database<Postgres>) {
    db.execute(
        "CREATE FUNCTION alone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT count(*) FROM applied WHERE xmin = pg_current_xact_id()::xid) > 1 THEN
                 RAISE EXCEPTION 'one row a transaction';
             END IF;
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER alone AFTER INSERT ON applied
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION alone();",
    )
    .await;
    let positions = db.append("User", ["a", "b", "c", "d"]).await;
    let settings = impatient().retries(0).on_error(OnError::Skip);
    let report = db.run_once(read_model("users").settings(settings)).await;
    assert_eq!(report.consumer("users").unwrap().skipped, 0, "{report}");
    assert_eq!(db.applied("users").await, positions);
}

/// The first COMMIT fails as those of serializable transactions do: not because of the event.
async fn a_commit_that_cannot_be_serialized_counts_no_attempt(db: Database<Postgres>) {
    db.execute(
        "CREATE SEQUENCE commits;
         CREATE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('commits') = 1 THEN
                 RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'could not serialize access';
             END IF;
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER unlucky AFTER INSERT ON applied
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION unlucky();",
    )
    .await;
    let positions = db.append("User", ["a"]).await;
    let settings = impatient().retries(0).on_error(OnError::Skip);
    let report = db.run_once(read_model("users").settings(settings)).await;
    assert_eq!(report.consumer("users").unwrap().skipped, 0, "{report}");
    assert_eq!(db.applied("users").await, positions);
    assert_eq!(db.numbers("SELECT last_value FROM commits").await, [2]);
}

async fn a_save_that_the_server_fails_counts_no_attempt(db: Database<Postgres>) {
    db.execute(
        "CREATE SEQUENCE saves;
         CREATE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('saves') = 1 THEN
                 RAISE EXCEPTION USING ERRCODE = '53200', MESSAGE = 'out of memory';
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER unlucky BEFORE UPDATE ON consumer_progress FOR EACH ROW
             WHEN (NEW.position > OLD.position) EXECUTE FUNCTION unlucky();",
    )
    .await;
    let positions = db.append("User", ["a"]).await;
    let settings = impatient().retries(0).on_error(OnError::Skip);
    let report = db.run_once(read_model("users").settings(settings)).await;
    assert_eq!(report.consumer("users").unwrap().skipped, 0, "{report}");
    assert_eq!(db.applied("users").await, positions);
    assert_eq!(db.numbers("SELECT last_value FROM saves").await, [2]);
}

async fn a_handler_may_have_all_constraints_checked_at_once(db: Database<Postgres>) {
    let positions = db.append("User", ["a"]).await;
    let checking = consumer::<Postgres, _>("checking", |_, tx, event| {
        Box::pin(async move {
            Postgres::apply(tx, "checking", event).await?;
            Ok(Postgres::execute_sql(tx, "SET CONSTRAINTS ALL IMMEDIATE").await?)
        })
    });
    let report = db.run_once(checking.settings(impatient().retries(0))).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("checking").await, positions);
}

async fn a_nested_transaction_that_stays_open_stops_its_consumer<DB: TestDatabase>(
    db: Database<DB>,
) {
    let positions = db.append("User", ["a"]).await;
    let effect = Arc::new(AtomicBool::new(false));
    let happened = Arc::clone(&effect);
    let leaking = consumer::<DB, _>("leaking", move |cx, tx, event| {
        let happened = Arc::clone(&happened);
        Box::pin(async move {
            cx.after_commit(async move { happened.store(true, Ordering::SeqCst) });
            DB::apply(tx, "leaking", event).await?;
            std::mem::forget(tx.begin().await?);
            Ok(())
        })
    });
    // A policy does not excuse it, as it does not excuse a COMMIT (R4).
    let leaking = leaking.settings(impatient().on_error(OnError::Skip));
    let report = db.run_once(leaking).await;
    let (position, error) = stopped_at(&report, "leaking");
    assert_eq!(position, Some(positions[0]));
    assert!(error.contains("begin()"), "{error}");
    assert_eq!(report.consumer("leaking").unwrap().events, 0, "{report}");
    assert_eq!(db.applied("leaking").await, [0; 0]);
    assert_eq!(db.checkpoint("leaking").await, Some(0));
    assert!(!effect.load(Ordering::SeqCst), "its effect happened");
}

async fn a_nested_transaction_left_open_by_an_error_is_rolled_back<DB: TestDatabase>(
    db: Database<DB>,
) {
    let positions = db.append("User", ["a", "b"]).await;
    let leaking = consumer::<DB, _>("leaking", |cx, tx, event| {
        let is_first_attempt = cx.attempt() == 1;
        Box::pin(async move {
            DB::apply(tx, "leaking", event).await?;
            if is_first_attempt {
                std::mem::forget(tx.begin().await?);
                return Err("not yet".into());
            }
            Ok(())
        })
    });
    let report = db.run_once(leaking.settings(impatient())).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("leaking").await, positions);
}

/// Dropping it only queues the rollback.
async fn a_nested_transaction_that_is_dropped_is_rolled_back<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b"]).await;
    let dropping = consumer::<DB, _>("dropping", |_, tx, event| {
        Box::pin(async move {
            DB::apply(&mut *tx, "dropping", event).await?;
            let mut nested = tx.begin().await?;
            DB::apply(&mut nested, "nested", event).await?;
            drop(nested);
            Ok(())
        })
    });
    let report = db.run_once(dropping).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("dropping").await, positions);
    assert_eq!(db.applied("nested").await, [0; 0]);
}

async fn after_a_leaked_nested_transaction_other_consumers_run<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b"]).await;
    let leaking = consumer::<DB, _>("leaking", |_, tx, _| {
        Box::pin(async move {
            std::mem::forget(tx.begin().await?);
            Ok(())
        })
    });
    let worker = db.worker().consumer(leaking).consumer(read_model("users"));
    let report = run_once(worker).await;
    let users = report.consumer("users").unwrap();
    assert_eq!(users.state, ConsumerState::CaughtUp);
    assert_eq!(db.applied("users").await, positions);
    stopped_at(&report, "leaking");
}

/// An event that fails because of what else the handler did to its transaction.
async fn a_handler_that_leaves_its_transaction_unusable_fails(db: Database<Postgres>) {
    // A role belongs to the server, which tests share.
    let role = format!("onlooker_of_{}", db.name());
    db.execute(&format!(
        "CREATE ROLE {role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    ))
    .await;
    for (set, explained) in [
        (
            "SET LOCAL transaction_read_only = on".to_owned(),
            "read-only",
        ),
        (
            "SET LOCAL transaction_read_only = on; CREATE TABLE refused ()".to_owned(),
            "read-only",
        ),
        (format!("SET LOCAL ROLE {role}"), "ROLE"),
    ] {
        let positions = db.append("User", ["a"]).await;
        let last = positions[0];
        let setting = consumer::<Postgres, _>("setting", move |_, tx, event| {
            let set = (event.global_position == last).then(|| set.clone());
            Box::pin(async move {
                Postgres::apply(tx, "setting", event).await?;
                if let Some(set) = set {
                    Postgres::execute_sql(tx, &set).await?;
                }
                Ok(())
            })
        });
        let report = db.run_once(setting.settings(impatient().retries(1))).await;
        let (position, error) = stopped_at(&report, "setting");
        assert_eq!(position, Some(last), "{error}");
        assert!(error.contains(explained), "{error}");
        let skip = "UPDATE consumer_progress SET position = failed_position, attempts = 0,
                           failed_position = NULL, error = NULL, state = 'running'";
        db.execute(skip).await;
    }
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

/// A column that is added to a read model changes the result of `SELECT *`, of which every connection
/// has a plan.
async fn a_migrated_read_model_costs_no_event_an_attempt(db: Database<Postgres>) {
    db.execute("CREATE TABLE rates (id INT PRIMARY KEY); INSERT INTO rates VALUES (1)")
        .await;
    // It would drop the event with the first failure that counts.
    let settings = impatient().retries(0).on_error(OnError::Skip);
    let rates = |name: &'static str| {
        let rates = consumer::<Postgres, _>(name, move |_, tx, event| {
            Box::pin(async move {
                sqlx::query("SELECT * FROM rates")
                    .fetch_one(&mut *tx)
                    .await?;
                Ok(Postgres::apply(tx, name, event).await?)
            })
        });
        rates.settings(settings.clone())
    };
    let running = Running::start(db.worker().consumer(rates("a")).consumer(rates("b")));
    let mut appended = db.append_many(20).await;
    patiently("it prepares its statements", running.caught_up())
        .await
        .unwrap();
    for column in ["v", "w"] {
        db.execute(&format!("ALTER TABLE rates ADD COLUMN {column} INT"))
            .await;
        appended.extend(db.append_many(20).await);
        patiently("it continues", running.caught_up())
            .await
            .unwrap();
    }
    let report = running.stop().await;
    for name in ["a", "b"] {
        assert_eq!(report.consumer(name).unwrap().skipped, 0, "{report}");
        assert_eq!(db.applied(name).await, appended);
    }
}

/// A handler that makes its own plan stale does so on each connection.
async fn a_plan_made_stale_by_the_handler_itself_counts(db: Database<Postgres>) {
    db.execute("CREATE TABLE rates (id INT PRIMARY KEY)").await;
    db.append("User", ["a"]).await;
    let altering = consumer::<Postgres, _>("altering", |_, tx, _| {
        Box::pin(async move {
            for _ in 0..2 {
                sqlx::query("SELECT * FROM rates")
                    .fetch_all(&mut *tx)
                    .await?;
                Postgres::execute_sql(tx, "ALTER TABLE rates ADD COLUMN v INT").await?;
            }
            Ok(())
        })
    });
    let report = db.run_once(altering.settings(impatient().retries(1))).await;
    let (_, error) = stopped_at(&report, "altering");
    assert!(error.contains("cached plan"), "{error}");
}

/// A pooler that does not know prepared statements, with the URL that the guide has for it.
async fn behind_a_pooler_a_query_needs_no_special_care(db: Database<Postgres>) {
    let plain = |name: &'static str| {
        let plain = consumer::<Postgres, _>(name, move |_, tx, event| {
            Box::pin(async move {
                let position = event.global_position;
                let insert = "INSERT INTO applied (consumer, position, aggregate, version)
                              VALUES ($1, $2, '', 0)";
                let insert = sqlx::query(insert).bind(name).bind(position);
                insert.execute(&mut *tx).await?;
                sqlx::query("SELECT $1::bigint")
                    .bind(position)
                    .execute(tx)
                    .await?;
                Ok(())
            })
        });
        plain.settings(impatient().retries(0).batch_size(3))
    };
    let names = ["a", "b", "c", "d", "e", "f"];
    let worker = names
        .iter()
        .fold(db.worker(), |worker, name| worker.consumer(plain(name)));
    let running = Running::start(worker);
    let mut appended = Vec::new();
    for _ in 0..20 {
        appended.extend(db.append_many(5).await);
    }
    patiently("it handles them", running.caught_up())
        .await
        .unwrap();
    running.stop().await;
    for name in names {
        assert_eq!(db.applied(name).await, appended, "{name}");
    }
}
