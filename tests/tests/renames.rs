//! A consumer keeps its checkpoint when its name changes, and no process repeats under the old name what
//! was done.

use std::sync::Arc;
use std::time::Duration;

use consumer::admin::{ActivateOptions, Admin, AdminError, ForgetOptions, RebuildOptions, Target};
use consumer::{
    Backend, BuildError, ConsumerReport, ConsumerState, Formerly, HealthProblem, HeldBackReason,
    OnError, Registered, Report, Schema, Settings, Worker, WorkerBuilder, aggregate_slice,
};
use consumer_tests::{
    Database, Model, Running, Seen, TestConsumer, TestDatabase, WorkerProcess, consumer,
    dropped_after, keep_log, logged, patiently, read_model, run_once, test_on, until,
};
use tokio::sync::Semaphore;

test_on!(
    [sqlite, postgres, through_a_pooler],
    a_rename_moves_everything_of_a_consumer,
    a_consumer_takes_over_from_its_former_name,
    an_old_name_is_held_back_while_others_run,
    a_running_process_notices_that_its_row_has_another_name,
    renaming_back_lets_the_old_process_go_on,
    a_rename_waits_for_the_batch_in_progress
);

test_on!(
    [sqlite, postgres],
    a_former_name_without_a_checkpoint_changes_nothing,
    after_a_rename_the_same_events_are_replays,
    a_renamed_version_is_a_version_of_the_new_name,
    a_rename_that_fails_halfway_changes_nothing,
    a_rename_while_workers_run_loses_and_repeats_nothing,
    a_take_over_waits_for_the_old_process_and_stops_no_other,
    a_rename_waits_for_a_handler_without_tx,
    a_former_name_that_is_still_declared_is_refused,
    two_consumers_cannot_take_over_from_one,
    a_former_name_that_has_a_checkpoint_too_holds_back,
    a_former_name_that_was_renamed_again_holds_back,
    a_new_consumer_beside_a_detached_one_is_held_back,
    a_new_consumer_beside_one_that_is_being_renamed_starts,
    a_decision_lets_a_new_consumer_start,
    a_running_worker_starts_what_was_decided,
    a_forgotten_consumer_is_held_back_until_it_starts_anew,
    what_was_forgotten_stays_a_replay_after_start_new,
    a_forgotten_version_holds_back_that_version_alone,
    a_forced_forget_lets_the_consumer_start_over,
    an_old_name_can_start_another_consumer,
    only_free_names_can_be_given,
    no_release_creates_a_checkpoint_under_an_old_name,
    a_name_retired_in_one_log_is_free_in_another,
    a_name_that_was_taken_back_can_be_given_again,
    a_deploy_renames_while_old_processes_restart,
    what_another_release_runs_is_not_detached
);

fn users() -> Model {
    Model::new("users")
}

fn accounts() -> Model {
    Model::new("accounts").formerly(Formerly::name("users"))
}

fn admin<DB: TestDatabase>(db: &Database<DB>) -> Admin<DB> {
    Admin::new(db.store.clone())
}

/// The events that the consumer has applied, under either name.
async fn applied<DB: TestDatabase>(db: &Database<DB>) -> Vec<i64> {
    db.numbers(
        "SELECT position FROM applied WHERE consumer IN ('users', 'accounts') ORDER BY ordinal",
    )
    .await
}

fn of(report: &Report, name: &str) -> ConsumerReport {
    report.consumer(name).expect("it is in the report").clone()
}

fn reason(state: &ConsumerState) -> HeldBackReason {
    match state {
        ConsumerState::HeldBack(held_back) => held_back.reason.clone(),
        other => panic!("not held back, but {other}"),
    }
}

fn renamed(to: &str) -> HeldBackReason {
    HeldBackReason::Renamed { to: to.to_owned() }
}

/// How many rows of each of the library's tables name a consumer.
async fn traces<DB: TestDatabase>(db: &Database<DB>, name: &str) -> Vec<i64> {
    let mut traces = Vec::new();
    for table in [
        "progress", "worker", "parked", "handled", "active", "log", "pending",
    ] {
        let count = format!("SELECT count(*) FROM consumer_{table} WHERE consumer = '{name}'");
        traces.push(db.number(&count).await);
    }
    traces
}

fn is_held_back<DB: Backend>(running: &Running<DB>, name: &str) -> bool {
    let consumers = running.consumers();
    let mut own = consumers.iter().filter(|one| &*one.id.name == name);
    own.all(|one| matches!(one.state, ConsumerState::HeldBack(_)))
}

async fn held_back<DB: Backend>(running: &Running<DB>, name: &str) {
    until("it is held back", async || is_held_back(running, name)).await;
}

/// Two versions in two segments each, of which the first one has parked events and was rebuilt.
async fn two_versions<DB: TestDatabase>(db: &Database<DB>, name: &'static str) -> [Model; 2] {
    let settings = Settings::default().retries(0).segments(2);
    let [first, second] =
        [(); 2].map(|()| Model::new(name).settings(settings.clone().on_error(OnError::Park)));
    first.fail_on("u-3", true);
    run_once(both(db, &[first.clone(), second.clone()])).await;
    [first, second]
}

fn both<DB: TestDatabase>(db: &Database<DB>, versions: &[Model; 2]) -> WorkerBuilder<DB> {
    let [first, second] = versions.clone();
    db.worker()
        .registered(Registered::new(first).version(1))
        .registered(Registered::new(second).version(2))
}

async fn a_rename_moves_everything_of_a_consumer<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", (0..20).map(|n| format!("u-{n}"))).await;
    two_versions(&db, "users").await;
    let admin = admin(&db);
    let first = || Target::new("users").version(1);
    let discarding = RebuildOptions::new().without_reset().discard_parked();
    // The ledger has what the first version had handled before.
    let old = Registered::new(users()).version(1);
    let old = db.worker().registered(old).admin().unwrap();
    old.rebuild(Target::new("users").version(1), discarding)
        .await
        .unwrap();
    let again =
        Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
    again.fail_on("u-3", true);
    run_once(db.worker().registered(Registered::new(again).version(1))).await;
    admin
        .activate(first(), ActivateOptions::new().force())
        .await
        .unwrap();
    db.execute("INSERT INTO consumer_pending (consumer, version, slice_from, position) VALUES ('users', 2, 0, 21)")
        .await;
    let before = traces(&db, "users").await;
    assert!(before.iter().all(|rows| *rows > 0), "{before:?}");

    admin.rename("users", "accounts").await.unwrap();
    assert_eq!(traces(&db, "accounts").await, before);
    assert_eq!(traces(&db, "users").await, [0; 7]);
    assert_eq!(admin.active_version("accounts").await.unwrap(), Some(1));
    let parked = admin.parked(Target::new("accounts").version(1)).await;
    assert_eq!(parked.unwrap().len(), 1);
    let successor = "SELECT successor FROM consumer_retired WHERE consumer = 'users'";
    assert_eq!(db.texts(successor).await, ["accounts"]);
}

async fn after_a_rename_the_same_events_are_replays<DB: TestDatabase>(db: Database<DB>) {
    let ids: Vec<String> = (0..20).map(|n| format!("u-{n}")).collect();
    let handled = db.append("User", &ids).await;
    let [_, second] = two_versions(&db, "users").await;
    admin(&db).rename("users", "accounts").await.unwrap();

    let accounts = Model::new("accounts").settings(Settings::default().retries(0).segments(2));
    let operator = both(&db, &[accounts.clone(), accounts.clone()])
        .admin()
        .unwrap();
    // What the first version has parked, the second one has handled.
    let retried = operator
        .retry_parked(Target::new("accounts").version(1), None)
        .await
        .unwrap();
    assert_eq!(retried.handled, 1);
    let second_target = Target::new("accounts").version(2);
    operator
        .rebuild(second_target, RebuildOptions::new())
        .await
        .unwrap();
    let new = db.append("User", ["u-0", "u-19"]).await;
    run_once(both(&db, &[accounts.clone(), accounts.clone()])).await;
    let seen = accounts.seen();
    for position in &handled {
        let own = seen.iter().filter(|one| one.position == *position);
        assert!(own.clone().count() > 0 && own.clone().all(|one| one.is_replay));
    }
    for position in &new {
        let own: Vec<&Seen> = seen
            .iter()
            .filter(|one| one.position == *position)
            .collect();
        let first_ones = own.iter().filter(|one| !one.is_replay).count();
        assert_eq!((own.len(), first_ones), (2, 1), "{own:?}");
    }
    assert!(!second.seen().is_empty());
}

async fn a_renamed_version_is_a_version_of_the_new_name<DB: TestDatabase>(db: Database<DB>) {
    let first = db.append_many(3).await;
    run_once(users().worker(&db)).await;
    // The release that renames it also has a new version.
    let versions = [accounts(), accounts()];
    let report = run_once(both(&db, &versions)).await;
    assert!(!report.has_failures(), "{report}");
    let seen = accounts_seen(&versions);
    assert_eq!(seen[0], []);
    let replays: Vec<i64> = seen[1].iter().map(|one| one.position).collect();
    assert_eq!(replays, first);
    assert!(seen[1].iter().all(|one| one.is_replay));
}

fn accounts_seen(versions: &[Model; 2]) -> [Vec<Seen>; 2] {
    [versions[0].seen(), versions[1].seen()]
}

async fn a_consumer_takes_over_from_its_former_name<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(3).await;
    run_once(users().worker(&db)).await;
    db.append_many(3).await;
    for _ in 0..2 {
        let report = run_once(accounts().worker(&db)).await;
        assert!(
            !report.has_failures() && report.detached.is_empty(),
            "{report}"
        );
        assert_eq!(applied(&db).await, db.log().await);
        db.append_many(3).await;
    }
    assert_eq!(db.checkpoint("users").await, None);
}

async fn a_former_name_without_a_checkpoint_changes_nothing<DB: TestDatabase>(db: Database<DB>) {
    let log = db.append_many(3).await;
    let report = run_once(accounts().worker(&db)).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("accounts").await, log);
}

async fn an_old_name_is_held_back_while_others_run<DB: TestDatabase>(db: Database<DB>) {
    keep_log();
    let orders = || read_model("orders");
    db.append_many(2).await;
    run_once(db.worker().consumer(users()).consumer(orders())).await;
    admin(&db).rename("users", "accounts").await.unwrap();
    let last = db.append_many(2).await[1];

    let worker = || db.worker().consumer(users()).consumer(orders());
    let running = Running::start(worker());
    patiently(
        "the other one runs",
        running.consumer_caught_up_to("orders", last),
    )
    .await
    .unwrap();
    let waiting = running.consumer_caught_up_to("users", last).await;
    assert!(
        waiting
            .unwrap_err()
            .to_string()
            .contains("`rename accounts users`")
    );
    let health = running.health();
    let of_users = |problem: &HealthProblem| {
        matches!(problem,
        HealthProblem::NotRunning { consumer, state: ConsumerState::HeldBack(_) } if &*consumer.name == "users")
    };
    assert!(health.problems.iter().any(of_users), "{health}");
    assert!(health.is_live() && health.is_ready(), "{health}");
    let report = running.stop().await;
    assert_eq!(reason(&of(&report, "users").state), renamed("accounts"));
    assert_eq!(of(&report, "users").state.name(), "held_back");
    assert!(report.has_failures());
    assert_eq!(db.applied("users").await.len(), 2);

    let lines = logged(&[
        "WARN",
        "consumer=\"users\"",
        "held back",
        "`start-new users`",
    ]);
    assert!(!lines.is_empty());
    let status = worker().admin().unwrap().status().await.unwrap();
    let users = status.consumer("users").unwrap();
    assert_eq!((users.state.name(), users.position), ("held_back", None));
    let words = users.held_back.as_deref().unwrap();
    assert!(words.contains("renamed to `accounts`"), "{words}");
    assert_eq!(
        status.consumer("accounts").unwrap().state,
        ConsumerState::OtherRelease
    );
}

async fn what_another_release_runs_is_not_detached<DB: TestDatabase>(db: Database<DB>) {
    keep_log();
    let added = format!("added_on_{}", DB::NAME);
    let warnings = || logged(&["WARN", "the checkpoint is detached", &added]).len();
    let before = || db.worker().release("before").consumer(users());
    let renamed = || db.worker().release("after").consumer(accounts());
    db.append_many(2).await;
    run_once(before()).await;
    run_once(renamed().consumer(read_model(&added))).await;

    let report = run_once(before()).await;
    assert!(report.detached.is_empty(), "{report}");
    assert_eq!(warnings(), 0);
    let other = logged(&[
        "WARN",
        "another release was running it",
        &added,
        "release=\"after\"",
    ]);
    assert_eq!(other.len(), 1);
    let status = before().admin().unwrap().status().await.unwrap();
    for name in ["accounts", &added] {
        let one = status.consumer(name).unwrap();
        assert_eq!(one.state, ConsumerState::OtherRelease, "{name}");
        let json = serde_json::to_value(one).unwrap();
        assert_eq!(json["state"], "other_release");
    }
    // No process of the same release has a consumer that this one lacks.
    let status = renamed().admin().unwrap().status().await.unwrap();
    assert_eq!(
        status.consumer(&added).unwrap().state,
        ConsumerState::Detached
    );

    // The control: the process has not been seen for longer than three minutes.
    db.leave_alone().await;
    let report = run_once(before()).await;
    assert_eq!(report.detached, [added.as_str()]);
    assert_eq!(warnings(), 1);
    let status = before().admin().unwrap().status().await.unwrap();
    let state = |name: &str| status.consumer(name).unwrap().state.clone();
    assert_eq!(state(&added), ConsumerState::Detached);
    // Still what `users` was renamed to.
    assert_eq!(state("accounts"), ConsumerState::OtherRelease);
}

async fn a_running_process_notices_that_its_row_has_another_name<DB: TestDatabase>(
    db: Database<DB>,
) {
    let first = db.append_many(2).await[1];
    let running = Running::start(users().worker(&db));
    patiently("it runs", running.caught_up_to(first))
        .await
        .unwrap();
    admin(&db).rename("users", "accounts").await.unwrap();
    db.append_many(2).await;
    held_back(&running, "users").await;
    let state = running.consumers()[0].state.clone();
    assert_eq!(reason(&state), renamed("accounts"));
    run_once(accounts().worker(&db)).await;
    running.stop().await;
    assert_eq!(db.applied("users").await.len(), 2);
    assert_eq!(applied(&db).await, db.log().await);
}

async fn renaming_back_lets_the_old_process_go_on<DB: TestDatabase>(db: Database<DB>) {
    let old = Running::start(users().worker(&db));
    db.append_many(2).await;
    patiently("it runs", old.caught_up()).await.unwrap();
    let new = Running::start(accounts().worker(&db));
    let last = db.append_many(2).await[1];
    patiently("it takes over", new.caught_up_to(last))
        .await
        .unwrap();
    held_back(&old, "users").await;

    admin(&db).rename("accounts", "users").await.unwrap();
    held_back(&new, "accounts").await;
    let last = db.append_many(2).await[1];
    until("the old process continues", async || {
        old.consumers()[0].position >= Some(last)
    })
    .await;
    // Restarts of the new release do not take it back.
    new.stop().await;
    let report = run_once(accounts().worker(&db)).await;
    assert_eq!(reason(&of(&report, "accounts").state), renamed("users"));
    old.stop().await;
    assert_eq!(applied(&db).await, db.log().await);
}

async fn a_name_that_was_taken_back_can_be_given_again<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(2).await;
    run_once(users().worker(&db)).await;
    let admin = admin(&db);
    for (from, to) in [
        ("users", "b"),
        ("b", "c"),
        ("c", "users"),
        ("users", "b"),
        ("b", "users"),
    ] {
        admin.rename(from, to).await.unwrap();
        let aliases = "SELECT DISTINCT successor FROM consumer_retired";
        assert_eq!(
            db.texts(aliases).await,
            [to],
            "all old names lead to the present one"
        );
    }
    db.append_many(2).await;
    run_once(users().worker(&db)).await;
    assert_eq!(db.applied("users").await, db.log().await);
}

async fn a_rename_waits_for_the_batch_in_progress<DB: TestDatabase>(db: Database<DB>) {
    let gate = Arc::new(Semaphore::new(0));
    let gated = users().gate(&gate);
    let running = Running::start(gated.worker(&db));
    db.append_many(2).await;
    gated.entered.notified().await;
    let admin = admin(&db);
    let mut renaming = Box::pin(admin.rename("users", "accounts"));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut renaming).await;
    assert!(early.is_err(), "the batch has not ended");
    gate.add_permits(100);
    patiently("the batch ends", renaming).await.unwrap();
    held_back(&running, "users").await;
    running.stop().await;
    run_once(accounts().worker(&db)).await;
    assert_eq!(applied(&db).await, db.log().await);
}

async fn a_rename_waits_for_a_handler_without_tx<DB: TestDatabase>(db: Database<DB>) {
    let gate = Arc::new(Semaphore::new(0));
    let calls = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mails = |name: &str, gate: Option<Arc<Semaphore>>| -> TestConsumer<DB> {
        let calls = Arc::clone(&calls);
        consumer(name, move |_, _, event| {
            let (calls, gate, position) = (Arc::clone(&calls), gate.clone(), event.global_position);
            Box::pin(async move {
                calls.lock().unwrap().push(position);
                if let Some(gate) = gate {
                    gate.acquire().await?.forget();
                }
                Ok(())
            })
        })
        .without_tx()
    };
    let log = db.append_many(1).await;
    let running = Running::start(
        db.worker()
            .consumer(mails("users", Some(Arc::clone(&gate)))),
    );
    until("it is called", async || !calls.lock().unwrap().is_empty()).await;
    let admin = admin(&db);
    let mut renaming = Box::pin(admin.rename("users", "accounts"));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut renaming).await;
    assert!(early.is_err(), "the handler has not ended");
    gate.add_permits(1);
    patiently("the handler ends", renaming).await.unwrap();
    running.stop().await;
    db.run_once(mails("accounts", None)).await;
    assert_eq!(*calls.lock().unwrap(), log, "its effect happens once");
}

async fn a_rename_that_fails_halfway_changes_nothing<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(3).await;
    run_once(users().worker(&db)).await;
    let before = traces(&db, "users").await;
    // The alias is the last that a rename writes.
    let fail = match DB::NAME {
        "PostgreSQL" => {
            "ALTER TABLE consumer_retired ADD CONSTRAINT none CHECK (successor IS NULL)"
        }
        _ => {
            "CREATE TRIGGER none BEFORE INSERT ON consumer_retired BEGIN SELECT RAISE(ABORT, 'none'); END"
        }
    };
    db.execute(fail).await;
    let failed = admin(&db).rename("users", "accounts").await.unwrap_err();
    assert!(matches!(failed, AdminError::Store(_)), "{failed}");
    // Nor does a future that is dropped anywhere leave anything.
    for polls in 1.. {
        let admin = admin(&db);
        let is_done = dropped_after(polls, admin.rename("users", "accounts")).await;
        assert_eq!(traces(&db, "users").await, before, "after {polls} polls");
        assert_eq!(traces(&db, "accounts").await, [0; 7], "after {polls} polls");
        if is_done {
            break;
        }
    }

    let restore = match DB::NAME {
        "PostgreSQL" => "ALTER TABLE consumer_retired DROP CONSTRAINT none",
        _ => "DROP TRIGGER none",
    };
    db.execute(restore).await;
    db.append_many(3).await;
    run_once(accounts().worker(&db)).await;
    assert_eq!(applied(&db).await, db.log().await);
}

async fn a_rename_while_workers_run_loses_and_repeats_nothing<DB: TestDatabase>(db: Database<DB>) {
    let often = |builder: WorkerBuilder<DB>| {
        builder
            .poll_interval(Duration::from_millis(2))
            .snapshot_interval(Duration::from_millis(5))
    };
    let settings = || Settings::default().retries(0).segments(2).batch_size(3);
    let old = Running::start(often(users().settings(settings()).worker(&db)));
    until("it has a checkpoint", async || {
        db.checkpoint("users").await.is_some()
    })
    .await;
    let new = Model::new("accounts").settings(settings());
    let new = new.formerly(Formerly::Unstated);
    let new = Running::start(often(new.worker(&db)));
    let admin = admin(&db);
    for round in 0..10 {
        db.append("User", (0..10).map(|n| format!("u-{n}"))).await;
        let (from, to) = if round % 2 == 0 {
            ("users", "accounts")
        } else {
            ("accounts", "users")
        };
        admin.rename(from, to).await.unwrap();
    }
    let last = *db.log().await.last().unwrap();
    until("the last one has caught up", async || {
        old.consumers()[0].position >= Some(last)
    })
    .await;
    new.stop().await;
    old.stop().await;
    let mut all = applied(&db).await;
    all.sort_unstable();
    assert_eq!(all, db.log().await);
    // In order within each aggregate.
    let disordered = "SELECT count(*) FROM applied AS a JOIN applied AS b
        ON a.aggregate = b.aggregate AND a.version < b.version AND a.ordinal > b.ordinal";
    assert_eq!(db.number(disordered).await, 0);
}

async fn a_take_over_waits_for_the_old_process_and_stops_no_other<DB: TestDatabase>(
    db: Database<DB>,
) {
    if DB::NAME != "PostgreSQL" {
        // A batch keeps all other writers out there.
        return;
    }
    let gate = Arc::new(Semaphore::new(0));
    let gated = users().gate(&gate);
    let old = Running::start(gated.worker(&db));
    let last = db.append_many(1).await[0];
    gated.entered.notified().await;
    let new = db
        .worker()
        .consumer(accounts())
        .consumer(read_model("orders"));
    let new = Running::start(new);
    patiently("others run", new.consumer_caught_up_to("orders", last))
        .await
        .unwrap();
    let consumers = new.consumers();
    let own = consumers
        .iter()
        .find(|one| &*one.id.name == "accounts")
        .unwrap();
    let former = "users".to_owned();
    assert_eq!(reason(&own.state), HeldBackReason::FormerBusy { former });
    gate.add_permits(100);
    until("it takes over", async || {
        let consumers = new.consumers();
        let own = consumers.iter().find(|one| &*one.id.name == "accounts");
        own.unwrap().position >= Some(last)
    })
    .await;
    old.stop().await;
    new.stop().await;
    assert_eq!(applied(&db).await, db.log().await);
}

async fn a_former_name_that_is_still_declared_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let worker = db.worker().consumer(accounts()).consumer(users());
    let refused = worker.build().unwrap_err();
    assert!(
        matches!(&refused, BuildError::FormerNameInUse { by, .. } if by == "users"),
        "{refused}"
    );
}

async fn two_consumers_cannot_take_over_from_one<DB: TestDatabase>(db: Database<DB>) {
    let other = Model::new("bills").formerly(Formerly::name("users"));
    let refused = db.worker().consumer(accounts()).consumer(other).build();
    let refused = refused.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("`accounts` in this program claims too"),
        "{refused}"
    );
    // Versions of one consumer can.
    assert!(both(&db, &[accounts(), accounts()]).build().is_ok());
}

async fn a_former_name_that_has_a_checkpoint_too_holds_back<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(2).await;
    run_once(users().worker(&db)).await;
    run_once(Model::new("accounts").worker(&db)).await;
    db.append_many(2).await;
    let report = run_once(accounts().worker(&db)).await;
    let former = "users".to_owned();
    let state = &of(&report, "accounts").state;
    assert_eq!(reason(state), HeldBackReason::BothExist { former });
    assert_eq!(db.applied("accounts").await.len(), 2);
    let status = accounts()
        .worker(&db)
        .admin()
        .unwrap()
        .status()
        .await
        .unwrap();
    assert_eq!(
        status.consumer("accounts").unwrap().state.name(),
        "held_back"
    );

    admin(&db)
        .forget("users", ForgetOptions::new())
        .await
        .unwrap();
    run_once(accounts().worker(&db)).await;
    assert_eq!(db.applied("accounts").await, db.log().await);
}

async fn a_former_name_that_was_renamed_again_holds_back<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(2).await;
    run_once(users().worker(&db)).await;
    admin(&db).rename("users", "people").await.unwrap();
    let report = run_once(accounts().worker(&db)).await;
    let gone = |to: Option<&str>| HeldBackReason::FormerGone {
        former: "users".to_owned(),
        to: to.map(str::to_owned),
    };
    assert_eq!(reason(&of(&report, "accounts").state), gone(Some("people")));
    let right = Model::new("accounts").formerly(Formerly::name("people"));
    assert!(!run_once(right.worker(&db)).await.has_failures());
    assert_eq!(applied(&db).await, db.log().await);

    // One that was forgotten is not taken for a new beginning either.
    let mails = Model::new("mails").scope(&["Mail"]);
    run_once(mails.worker(&db)).await;
    admin(&db)
        .forget("mails", ForgetOptions::new())
        .await
        .unwrap();
    let letters = Model::new("letters").scope(&["Mail"]);
    let letters = letters.formerly(Formerly::name("mails"));
    let report = run_once(letters.worker(&db)).await;
    let former = "mails".to_owned();
    let forgotten = HeldBackReason::FormerGone { former, to: None };
    assert_eq!(reason(&of(&report, "letters").state), forgotten);
}

async fn a_new_consumer_beside_a_detached_one_is_held_back<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(2).await;
    run_once(users().worker(&db)).await;
    let new = |name| Model::new(name).formerly(Formerly::Unstated);
    let other_scope = new("orders").scope(&["Order", "User"]);
    let worker = db
        .worker()
        .consumer(new("accounts"))
        .scoped_consumer(other_scope);
    let report = run_once(worker).await;
    let names = vec!["users".to_owned()];
    let state = &of(&report, "accounts").state;
    assert_eq!(reason(state), HeldBackReason::Detached { names });
    let words = state.to_string();
    for command in [
        "`formerly = \"users\"`",
        "`rename users accounts`",
        "`formerly = none`",
        "`start-new accounts`",
    ] {
        assert!(words.contains(command), "{words}");
    }
    assert_eq!(db.checkpoint("accounts").await, None);
    // Another scope, and a name that the program still has, are no reason.
    assert_eq!(db.applied("orders").await.len(), 2);
    let beside = db.worker().consumer(new("mails")).consumer(users());
    assert!(!run_once(beside).await.has_failures());
}

async fn a_new_consumer_beside_one_that_is_being_renamed_starts<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append_many(2).await;
    run_once(users().worker(&db)).await;
    // Its name comes first, when the other one has not taken over yet.
    let new = Model::new("a_new_one").formerly(Formerly::Unstated);
    let report = run_once(db.worker().consumer(new).consumer(accounts())).await;
    assert!(!report.has_failures(), "{report}");
}

async fn a_decision_lets_a_new_consumer_start<DB: TestDatabase>(db: Database<DB>) {
    let unstated = || Model::new("accounts").formerly(Formerly::Unstated);
    for decision in ["none", "formerly", "rename", "start-new", "forget"] {
        db.execute("DELETE FROM consumer_progress; DELETE FROM consumer_retired; DELETE FROM consumer_handled; DELETE FROM applied")
            .await;
        db.append_many(1).await;
        run_once(users().worker(&db)).await;
        let held_back = run_once(unstated().worker(&db)).await;
        assert!(held_back.has_failures(), "{held_back}");
        let operator = unstated().worker(&db).admin().unwrap();
        let model = match decision {
            "none" => Model::new("accounts"),
            "formerly" => accounts(),
            "rename" => {
                operator.rename("users", "accounts").await.unwrap();
                unstated()
            }
            "start-new" => {
                operator.start_new("accounts").await.unwrap();
                unstated()
            }
            _ => {
                operator
                    .forget("users", ForgetOptions::new())
                    .await
                    .unwrap();
                unstated()
            }
        };
        let report = run_once(model.worker(&db)).await;
        assert!(!report.has_failures(), "{decision}: {report}");
        let is_anew = !matches!(decision, "formerly" | "rename");
        let log = db.log().await;
        let expected = if is_anew { log } else { Vec::new() };
        assert_eq!(db.applied("accounts").await, expected, "{decision}");
    }
}

async fn a_running_worker_starts_what_was_decided<DB: TestDatabase>(db: Database<DB>) {
    let last = db.append_many(2).await[1];
    run_once(users().worker(&db)).await;
    let unstated = Model::new("accounts").formerly(Formerly::Unstated);
    let running = Running::start(unstated.worker(&db));
    held_back(&running, "accounts").await;
    unstated
        .worker(&db)
        .admin()
        .unwrap()
        .start_new("accounts")
        .await
        .unwrap();
    until("it starts", async || {
        running.consumers()[0].position >= Some(last)
    })
    .await;
    assert!(running.health().problems.is_empty(), "{}", running.health());

    // Once more, without its code.
    let admin = admin(&db);
    admin
        .forget("accounts", ForgetOptions::new())
        .await
        .unwrap();
    held_back(&running, "accounts").await;
    assert_eq!(
        reason(&running.consumers()[0].state),
        HeldBackReason::Forgotten
    );
    let again = db.append_many(1).await[0];
    admin.forget("users", ForgetOptions::new()).await.unwrap();
    admin.start_new("accounts").await.unwrap();
    until("it starts again", async || {
        running.consumers()[0].position >= Some(again)
    })
    .await;
    running.stop().await;
    assert_eq!(db.applied("accounts").await.len(), 5);
}

async fn a_forgotten_consumer_is_held_back_until_it_starts_anew<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append_many(2).await;
    run_once(users().worker(&db)).await;
    let admin = admin(&db);
    admin.forget("users", ForgetOptions::new()).await.unwrap();
    let worker = || db.worker().consumer(users()).consumer(read_model("orders"));
    let report = run_once(worker()).await;
    assert_eq!(
        reason(&of(&report, "users").state),
        HeldBackReason::Forgotten
    );
    assert!(
        of(&report, "users")
            .state
            .to_string()
            .contains("`start-new users")
    );
    assert_eq!(of(&report, "orders").state, ConsumerState::CaughtUp);
    // No command creates its checkpoint by the way.
    let refused = worker().admin().unwrap().pause("users").await.unwrap_err();
    assert!(matches!(refused, AdminError::HeldBack { .. }), "{refused}");
    assert_eq!(db.checkpoint("users").await, None);

    admin.start_new("users").await.unwrap();
    let report = run_once(worker()).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("users").await.len(), 4);
    let refused = admin.start_new("users").await.unwrap_err();
    assert!(
        matches!(refused, AdminError::NotHeldBack { .. }),
        "{refused}"
    );
    let refused = admin.start_new("unknown").await.unwrap_err();
    assert!(matches!(refused, AdminError::NoCode { .. }), "{refused}");
}

async fn what_was_forgotten_stays_a_replay_after_start_new<DB: TestDatabase>(db: Database<DB>) {
    let handled = db.append_many(2).await;
    run_once(users().worker(&db)).await;
    let admin = admin(&db);
    admin.forget("users", ForgetOptions::new()).await.unwrap();
    let new = db.append_many(1).await;
    admin.start_new("users").await.unwrap();
    let again = users();
    run_once(again.worker(&db)).await;
    let seen = again
        .seen()
        .into_iter()
        .map(|one| (one.position, one.is_replay));
    let replays = handled.iter().map(|position| (*position, true));
    let expected: Vec<_> = replays.chain([(new[0], false)]).collect();
    assert_eq!(seen.collect::<Vec<_>>(), expected);

    // A consumer that gets the name of a forgotten one does not inherit what that one handled.
    admin
        .forget("users", ForgetOptions::new().force())
        .await
        .unwrap();
    db.execute("DELETE FROM applied").await;
    let orders =
        Model::new("orders").settings(Settings::default().start_from(consumer::StartFrom::Now));
    run_once(orders.worker(&db)).await;
    db.execute("UPDATE consumer_progress SET position = 1, began = 0")
        .await;
    admin.rename("orders", "users").await.unwrap();
    let renamed = users();
    run_once(renamed.worker(&db)).await;
    let seen = renamed.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|one| !one.is_replay), "{seen:?}");
}

async fn a_forgotten_version_holds_back_that_version_alone<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(2).await;
    run_once(both(&db, &[users(), users()])).await;
    let admin = admin(&db);
    let version = |version| Target::new("users").version(version);
    admin
        .activate(version(2), ActivateOptions::new())
        .await
        .unwrap();
    admin
        .forget(version(1), ForgetOptions::new())
        .await
        .unwrap();
    let report = run_once(both(&db, &[users(), users()])).await;
    assert_eq!(
        reason(&report.consumers[0].state),
        HeldBackReason::Forgotten
    );
    assert_eq!(report.consumers[1].state, ConsumerState::CaughtUp);
    // The tombstone goes with the name.
    admin.rename("users", "accounts").await.unwrap();
    let report = run_once(both(&db, &[accounts(), accounts()])).await;
    assert_eq!(
        reason(&report.consumers[0].state),
        HeldBackReason::Forgotten
    );
    admin
        .start_new(Target::new("accounts").version(1))
        .await
        .unwrap();
    let report = run_once(both(&db, &[accounts(), accounts()])).await;
    assert!(!report.has_failures(), "{report}");
}

async fn a_forced_forget_lets_the_consumer_start_over<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(2).await;
    run_once(users().worker(&db)).await;
    let operator = users().worker(&db).admin().unwrap();
    operator
        .forget("users", ForgetOptions::new().force())
        .await
        .unwrap();
    let report = run_once(users().worker(&db)).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("users").await.len(), 4);
}

async fn an_old_name_can_start_another_consumer<DB: TestDatabase>(db: Database<DB>) {
    let log = db.append_many(2).await;
    run_once(users().worker(&db)).await;
    let admin = admin(&db);
    admin.rename("users", "accounts").await.unwrap();
    admin.start_new("users").await.unwrap();
    let other = users();
    run_once(other.worker(&db)).await;
    let seen: Vec<i64> = other.seen().iter().map(|one| one.position).collect();
    assert_eq!(seen, log);
    assert!(
        other.seen().iter().all(|one| !one.is_replay),
        "it is another one"
    );
}

async fn only_free_names_can_be_given<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(1).await;
    for name in ["users", "orders", "mails", "bills"] {
        run_once(Model::new(name).worker(&db)).await;
    }
    let admin = admin(&db);
    admin.forget("mails", ForgetOptions::new()).await.unwrap();
    admin.rename("bills", "invoices").await.unwrap();
    for (from, to, words) in [
        ("users", "orders", "has a checkpoint"),
        ("users", "users", "the name that it has"),
        ("users", "mails", "was forgotten"),
        ("users", "bills", "was renamed to `invoices`"),
        ("unknown", "accounts", "no consumer `unknown`"),
        ("users", "a b", "' '"),
        ("users", "", "is empty"),
    ] {
        let refused = admin.rename(from, to).await.unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
    let names = "SELECT consumer FROM consumer_progress ORDER BY consumer";
    assert_eq!(db.texts(names).await, ["invoices", "orders", "users"]);
}

async fn no_release_creates_a_checkpoint_under_an_old_name<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(1).await;
    run_once(users().worker(&db)).await;
    let insert = |version: u32| {
        format!(
            "INSERT INTO consumer_progress (consumer, version, slice_from, slice_to, position)
             VALUES ('users', {version}, 0, 1024, 0)"
        )
    };
    let mut connection = db.pool.acquire().await.unwrap();
    let mut refused = async |version| {
        let inserted = DB::execute_sql(&mut connection, &insert(version)).await;
        inserted.err().map(|error| error.to_string())
    };
    let admin = admin(&db);
    admin.rename("users", "accounts").await.unwrap();
    for version in [1, 2] {
        let error = refused(version).await.expect("refused");
        assert!(error.contains("renamed"), "{error}");
        assert!(error.contains("start-new"), "{error}");
    }
    admin.rename("accounts", "users").await.unwrap();
    run_once(both(&db, &[users(), users()])).await;
    let second = Target::new("users").version(2);
    admin.forget(second, ForgetOptions::new()).await.unwrap();
    assert!(refused(2).await.expect("refused").contains("forgotten"));
    assert_eq!(refused(3).await, None, "another version is not retired");
}

async fn a_name_retired_in_one_log_is_free_in_another<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(2).await;
    run_once(users().worker(&db)).await;
    admin(&db)
        .forget("users", ForgetOptions::new())
        .await
        .unwrap();
    let other = Schema::default()
        .events("other")
        .aggregate_heads("other_heads");
    let other = db.store.clone().with_schema(other).unwrap();
    let other = Database::of(other, &db.url);
    db.execute(&other.store.migration_sql()).await;
    other.append("User", ["u"]).await;
    let report = run_once(Worker::builder(other.store).consumer(users())).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("users").await, [1, 2, 1]);
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_test_worker");

async fn a_deploy_renames_while_old_processes_restart<DB: TestDatabase>(db: Database<DB>) {
    let old = || WorkerProcess::of(PROGRAM, &db).consumers(&["users", "orders"]);
    let new = || {
        let new = WorkerProcess::of(PROGRAM, &db).consumers(&["accounts", "orders"]);
        new.formerly("accounts", "users")
    };
    let all_applied = async |others: &str| {
        until("every event is applied", async || {
            let log = db.log().await.len();
            applied(&db).await.len() >= log && db.applied(others).await.len() >= log
        })
        .await;
        assert_eq!(applied(&db).await, db.log().await);
        assert_eq!(db.applied(others).await, db.log().await);
    };
    let mut processes = vec![old().start(), old().start()];
    for step in 0..6 {
        db.append_many(5).await;
        // Old processes are replaced one by one, and restart meanwhile.
        processes.remove(0).kill();
        processes.push(match step {
            1 | 3 | 4 | 5 => new().start(),
            _ => old().start(),
        });
        db.append_many(5).await;
        all_applied("orders").await;
    }
    // Back: a command, and then the old release.
    for process in processes {
        process.kill();
    }
    admin(&db).rename("accounts", "users").await.unwrap();
    let back = old().start();
    db.append_many(5).await;
    all_applied("orders").await;
    assert!(back.terminate());
}

#[test]
fn aggregates_of_these_tests_are_in_both_segments() {
    let lower = (0..20)
        .filter(|n| aggregate_slice(&format!("u-{n}")) < 512)
        .count();
    assert!((1..20).contains(&lower));
}
