//! `is_replay()` is true exactly when a consumer of this name has already handled or skipped the
//! event, whatever operators and versions do in between.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use consumer::admin::{ActivateOptions, Admin, AdminError, ForgetOptions, RebuildOptions, Target};
use consumer::{
    Consumer, OnError, Registered, ScopedConsumer, Settings, StartFrom, WorkerBuilder,
    aggregate_slice, merge_segments,
};
use consumer_tests::{
    Database, Model, Running, TestDatabase, consumer, patiently, run_once, test_on, until,
};

const NAME: &str = "mails";

/// Aggregates of the lower and of the upper half of all slices.
fn halves() -> (Vec<String>, Vec<String>) {
    let ids = (0..20).map(|n| format!("u-{n}"));
    ids.partition(|id| aggregate_slice(id) < 512)
}

/// Appends two events of each aggregate, in turns.
async fn two_of_each<DB: TestDatabase>(db: &Database<DB>) -> BTreeSet<i64> {
    let (lower, upper) = halves();
    let ids = lower.iter().chain(&upper);
    let twice = ids.clone().chain(ids);
    db.append("User", twice).await.into_iter().collect()
}

/// The events that were delivered since the last call, as first ones and as replays.
fn delivered(model: &Model) -> (BTreeSet<i64>, BTreeSet<i64>) {
    let seen = std::mem::take(&mut *model.seen.lock().unwrap());
    let of = |is_replay| {
        let of = seen.iter().filter(|one| one.is_replay == is_replay);
        of.map(|one| one.position).collect()
    };
    (of(false), of(true))
}

fn mails(settings: Settings) -> Model {
    Model::new(NAME).settings(settings.retries(0))
}

fn parking() -> Settings {
    Settings::default().on_error(OnError::Park)
}

fn versioned<DB: TestDatabase>(model: &Model, version: u32) -> Registered<DB>
where
    Model: Consumer<DB> + ScopedConsumer<DB>,
{
    Registered::new(model.clone()).version(version)
}

fn version(version: u32) -> Target {
    Target::new(NAME).version(version)
}

/// Lets one half of a consumer with two segments handle everything, and the other nothing after its
/// first aggregate; returns the positions that were handled.
async fn half_way<DB: TestDatabase>(
    db: &Database<DB>,
    builder: WorkerBuilder<DB>,
    model: &Model,
    stopped: &[String],
) -> BTreeSet<i64> {
    for id in &stopped[1..] {
        model.fail_on(id, true);
    }
    run_once(builder).await;
    for id in &stopped[1..] {
        model.fail_on(id, false);
    }
    model.seen.lock().unwrap().clear();
    db.applied(NAME).await.into_iter().collect()
}

/// Lets version 1 handle two events, of which it parks the first.
async fn one_parked<DB: TestDatabase>(db: &Database<DB>) -> (Model, [i64; 2]) {
    let positions = db.append("User", ["a", "b"]).await;
    let model = mails(parking());
    model.fail_on("a", true);
    run_once(db.worker().registered(versioned(&model, 1))).await;
    model.fail_on("a", false);
    model.seen.lock().unwrap().clear();
    assert_eq!(db.parked(NAME).await, [positions[0]]);
    (model, [positions[0], positions[1]])
}

test_on!(
    [sqlite, postgres],
    a_merge_in_a_rebuild_repeats_and_drops_no_effect,
    a_merge_in_a_rebuild_with_the_upper_half_behind_is_exact,
    a_merge_after_another_scope_keeps_what_both_rows_handled,
    a_parked_event_that_was_never_handled_is_retried_as_new,
    a_parked_replay_is_retried_as_a_replay,
    what_no_segment_of_version_1_handled_is_new_to_version_2,
    of_two_versions_at_the_frontier_one_has_the_effect,
    version_2_from_now_starts_where_version_1_stands,
    version_2_from_now_starts_at_the_slowest_segment,
    version_2_in_segments_from_now_starts_at_the_slowest_segment,
    an_event_that_version_1_parked_is_new_to_version_2,
    what_version_2_handled_is_a_replay_for_version_1_s_retry,
    a_parked_event_that_a_rebuild_discards_is_delivered_as_new,
    what_a_forgotten_consumer_handled_is_a_replay,
    another_scope_makes_its_earlier_events_new_and_no_others,
    what_a_row_handled_before_it_was_divided_is_a_replay,
    what_a_row_left_out_before_it_was_divided_is_new,
    activating_past_the_parked_effects_of_version_1_is_refused,
    forgetting_a_version_with_parked_effects_is_refused,
    compacting_the_ledger_keeps_what_no_other_range_covers
);

async fn a_merge_in_a_rebuild_repeats_and_drops_no_effect<DB: TestDatabase>(db: Database<DB>) {
    merge_in_a_rebuild(db, halves().0).await;
}

async fn a_merge_in_a_rebuild_with_the_upper_half_behind_is_exact<DB: TestDatabase>(
    db: Database<DB>,
) {
    merge_in_a_rebuild(db, halves().1).await;
}

async fn merge_in_a_rebuild<DB: TestDatabase>(db: Database<DB>, stopped: Vec<String>) {
    let all = two_of_each(&db).await;
    let model = mails(Settings::default().segments(2));
    let handled = half_way(&db, db.worker().consumer(model.clone()), &model, &stopped).await;
    assert!(handled.len() < all.len() && !handled.is_empty());
    let admin = db.worker().consumer(model.clone()).admin().unwrap();
    admin.rebuild(NAME, RebuildOptions::new()).await.unwrap();
    let merged = merge_segments(&db.store, NAME, 1, 1);
    patiently("the two rows become one", merged).await.unwrap();
    let one = db.worker().consumer(model.clone());
    run_once(one.configure(NAME, |one| one.segments(1))).await;
    let (first, replays) = delivered(&model);
    assert_eq!(first, &all - &handled, "first deliveries");
    assert_eq!(replays, handled, "replays");
}

async fn a_merge_after_another_scope_keeps_what_both_rows_handled<DB: TestDatabase>(
    db: Database<DB>,
) {
    let all = two_of_each(&db).await;
    let users = mails(Settings::default().segments(2)).scope(&["User"]);
    half_way(&db, users.worker(&db), &users, &halves().1).await;
    let both = users.clone().scope(&["Order", "User"]);
    let admin = both.worker(&db).admin().unwrap();
    // From here each row has a range of its own, which begins where the row is.
    admin.accept_scope(NAME).await.unwrap();
    run_once(both.worker(&db)).await;
    let merged = merge_segments(&db.store, NAME, 1, 1);
    patiently("the two rows become one", merged).await.unwrap();
    admin.rebuild(NAME, RebuildOptions::new()).await.unwrap();
    both.seen.lock().unwrap().clear();
    let one = both.worker(&db);
    run_once(one.configure(NAME, |one| one.segments(1))).await;
    assert_eq!(delivered(&both), (BTreeSet::new(), all));
}

async fn a_parked_event_that_was_never_handled_is_retried_as_new<DB: TestDatabase>(
    db: Database<DB>,
) {
    two_of_each(&db).await;
    let (lower, _) = halves();
    let model = mails(Settings::default().segments(2));
    half_way(&db, db.worker().consumer(model.clone()), &model, &lower).await;
    let parks = model.clone().settings(parking().retries(0).segments(2));
    let admin = db.worker().consumer(parks.clone()).admin().unwrap();
    admin.rebuild(NAME, RebuildOptions::new()).await.unwrap();
    // The half that was behind parks an event that it never reached before.
    parks.fail_on(&lower[2], true);
    run_once(db.worker().consumer(parks.clone())).await;
    parks.fail_on(&lower[2], false);
    let parked: BTreeSet<i64> = db.parked(NAME).await.into_iter().collect();
    assert_eq!(parked.len(), 2);
    parks.seen.lock().unwrap().clear();
    let retried = admin.retry_parked(NAME, None).await.unwrap();
    assert_eq!(retried.handled, 2, "{retried:?}");
    assert_eq!(delivered(&parks), (parked, BTreeSet::new()));
}

async fn a_parked_replay_is_retried_as_a_replay<DB: TestDatabase>(db: Database<DB>) {
    let position = db.append_one("User", "a").await;
    let model = mails(parking());
    let worker = || db.worker().consumer(model.clone());
    run_once(worker()).await;
    let admin = worker().admin().unwrap();
    admin.rebuild(NAME, RebuildOptions::new()).await.unwrap();
    model.fail_on("a", true);
    run_once(worker()).await;
    model.fail_on("a", false);
    assert_eq!(db.parked(NAME).await, [position]);
    model.seen.lock().unwrap().clear();
    admin.retry_parked(NAME, None).await.unwrap();
    assert_eq!(
        delivered(&model),
        (BTreeSet::new(), BTreeSet::from([position]))
    );
}

async fn what_no_segment_of_version_1_handled_is_new_to_version_2<DB: TestDatabase>(
    db: Database<DB>,
) {
    let all = two_of_each(&db).await;
    let (_, upper) = halves();
    let model = mails(Settings::default().segments(2));
    let first = db.worker().registered(versioned(&model, 1));
    let handled = half_way(&db, first, &model, &upper).await;
    let second = model.clone().settings(Settings::default().retries(0));
    run_once(db.worker().registered(versioned(&second, 2))).await;
    let (first, replays) = delivered(&second);
    assert_eq!(first, &all - &handled, "first deliveries");
    assert_eq!(replays, handled, "replays");
}

async fn of_two_versions_at_the_frontier_one_has_the_effect<DB: TestDatabase>(db: Database<DB>) {
    let effects: Arc<Mutex<Vec<i64>>> = Arc::default();
    let version = |version| {
        let effects = Arc::clone(&effects);
        let mails = consumer::<DB, _>(NAME, move |cx, _, event| {
            if !cx.is_replay() {
                let (effects, position) = (Arc::clone(&effects), event.global_position);
                cx.after_commit(async move { effects.lock().unwrap().push(position) });
            }
            Box::pin(async { Ok(()) })
        });
        Registered::new(mails).version(version)
    };
    let both = db.worker().registered(version(1)).registered(version(2));
    let running = Running::start(both);
    let mut appended = Vec::new();
    for n in 0..40 {
        appended.extend(db.append("User", [format!("u-{n}")]).await);
        let handled = running.caught_up_to(appended[n]);
        patiently("both versions handle it", handled).await.unwrap();
    }
    running.stop().await;
    effects.lock().unwrap().sort_unstable();
    assert_eq!(*effects.lock().unwrap(), appended);
}

async fn version_2_from_now_starts_where_version_1_stands<DB: TestDatabase>(db: Database<DB>) {
    let model = mails(Settings::default().start_from(StartFrom::Now));
    run_once(db.worker().registered(versioned(&model, 1))).await;
    db.append("User", ["a", "b", "c"]).await;
    run_once(db.worker().registered(versioned(&model, 1))).await;
    model.seen.lock().unwrap().clear();
    // Version 1 is gone with its release; these come before version 2 first runs.
    let meanwhile: BTreeSet<i64> = db.append("User", ["d", "e"]).await.into_iter().collect();
    run_once(db.worker().registered(versioned(&model, 2))).await;
    assert_eq!(delivered(&model), (meanwhile, BTreeSet::new()));
}

async fn version_2_from_now_starts_at_the_slowest_segment<DB: TestDatabase>(db: Database<DB>) {
    start_at_the_slowest_segment(db, 1, false).await;
}

async fn version_2_in_segments_from_now_starts_at_the_slowest_segment<DB: TestDatabase>(
    db: Database<DB>,
) {
    // With later events, none of the segments is at the head.
    start_at_the_slowest_segment(db, 4, true).await;
}

/// One of the four segments of version 1 is behind, and the others are at the head.
async fn start_at_the_slowest_segment<DB: TestDatabase>(
    db: Database<DB>,
    segments: u32,
    with_later_events: bool,
) {
    let all = two_of_each(&db).await;
    let (_, mut waiting) = halves();
    waiting.retain(|id| aggregate_slice(id) < 768);
    let model = mails(Settings::default().segments(4));
    let first = db.worker().registered(versioned(&model, 1));
    let handled = half_way(&db, first, &model, &waiting).await;
    let mut new = &all - &handled;
    // All of its events but the one before that on which it stopped.
    assert_eq!(new.len(), 2 * waiting.len() - 1);
    let positions = "SELECT position FROM consumer_progress WHERE version = 1 ORDER BY position";
    let positions = db.numbers(positions).await;
    let slowest = positions[0];
    assert!(0 < slowest && Some(&slowest) < new.first(), "{positions:?}");
    assert_eq!(positions[1..], [*all.last().unwrap(); 3]);
    if with_later_events {
        new.extend(two_of_each(&db).await);
    }

    let second = Settings::default().retries(0).segments(segments);
    let second = model.clone().settings(second.start_from(StartFrom::Now));
    run_once(db.worker().registered(versioned(&second, 2))).await;
    let (first, replays) = delivered(&second);
    assert_eq!(first, new, "first deliveries");
    let others = handled.into_iter().filter(|position| *position > slowest);
    assert_eq!(replays, others.collect(), "replays");
}

async fn an_event_that_version_1_parked_is_new_to_version_2<DB: TestDatabase>(db: Database<DB>) {
    let (model, [parked, handled]) = one_parked(&db).await;
    run_once(db.worker().registered(versioned(&model, 2))).await;
    assert_eq!(
        delivered(&model),
        (BTreeSet::from([parked]), BTreeSet::from([handled]))
    );
}

async fn what_version_2_handled_is_a_replay_for_version_1_s_retry<DB: TestDatabase>(
    db: Database<DB>,
) {
    let (model, [parked, _]) = one_parked(&db).await;
    run_once(db.worker().registered(versioned(&model, 2))).await;
    model.seen.lock().unwrap().clear();
    let first = db.worker().registered(versioned(&model, 1));
    let retried = first.admin().unwrap().retry_parked(version(1), None).await;
    assert_eq!(retried.unwrap().handled, 1);
    assert_eq!(
        delivered(&model),
        (BTreeSet::new(), BTreeSet::from([parked]))
    );
}

async fn a_parked_event_that_a_rebuild_discards_is_delivered_as_new<DB: TestDatabase>(
    db: Database<DB>,
) {
    let (model, [parked, handled]) = one_parked(&db).await;
    let worker = || db.worker().consumer(model.clone());
    let admin = worker().admin().unwrap();
    let discarding = RebuildOptions::new().discard_parked();
    admin.rebuild(NAME, discarding).await.unwrap();
    run_once(worker()).await;
    assert_eq!(
        delivered(&model),
        (BTreeSet::from([parked]), BTreeSet::from([handled]))
    );
}

async fn what_a_forgotten_consumer_handled_is_a_replay<DB: TestDatabase>(db: Database<DB>) {
    let (model, [parked, handled]) = one_parked(&db).await;
    let admin = Admin::new(db.store.clone());
    let discarding = ForgetOptions::new().discard_parked();
    admin.forget(NAME, discarding).await.unwrap();
    admin.start_new(NAME).await.unwrap();
    let new = db.append_one("User", "c").await;
    run_once(db.worker().consumer(model.clone())).await;
    assert_eq!(
        delivered(&model),
        (BTreeSet::from([parked, new]), BTreeSet::from([handled]))
    );
}

async fn another_scope_makes_its_earlier_events_new_and_no_others<DB: TestDatabase>(
    db: Database<DB>,
) {
    let user = db.append_one("User", "u").await;
    let order = db.append_one("Order", "o").await;
    let users = mails(Settings::default()).scope(&["User"]);
    run_once(users.worker(&db)).await;
    let both = users.clone().scope(&["Order", "User"]);
    let admin = both.worker(&db).admin().unwrap();
    admin.accept_scope(NAME).await.unwrap();
    admin.rebuild(NAME, RebuildOptions::new()).await.unwrap();
    users.seen.lock().unwrap().clear();
    run_once(both.worker(&db)).await;
    assert_eq!(
        delivered(&both),
        (BTreeSet::from([order]), BTreeSet::from([user]))
    );
}

async fn what_a_row_handled_before_it_was_divided_is_a_replay<DB: TestDatabase>(db: Database<DB>) {
    let users = two_of_each(&db).await;
    let model = mails(Settings::default()).scope(&["User"]);
    run_once(model.worker(&db)).await;
    let replays = rebuilt_in_two_rows(&db, &model).await;
    assert_eq!(replays, (BTreeSet::new(), users));
}

/// Its scope was another one then.
async fn what_a_row_left_out_before_it_was_divided_is_new<DB: TestDatabase>(db: Database<DB>) {
    let users = two_of_each(&db).await;
    let (lower, upper) = halves();
    let orders = db.append("Order", [&lower[0], &upper[0]]).await;
    let model = mails(Settings::default()).scope(&["User"]);
    run_once(model.worker(&db)).await;
    let both = model.clone().scope(&["Order", "User"]);
    let admin = both.worker(&db).admin().unwrap();
    admin.accept_scope(NAME).await.unwrap();
    let delivered = rebuilt_in_two_rows(&db, &both).await;
    assert_eq!(delivered, (orders.into_iter().collect(), users));
}

/// Divides the row of a consumer, rebuilds it, and returns what it is given then, as new and as replays.
async fn rebuilt_in_two_rows<DB: TestDatabase>(
    db: &Database<DB>,
    model: &Model,
) -> (BTreeSet<i64>, BTreeSet<i64>) {
    let divided = || model.worker(db).configure(NAME, |one| one.segments(2));
    let running = Running::start(divided());
    until("the row is divided", async || {
        db.number("SELECT count(*) FROM consumer_progress").await == 2
    })
    .await;
    running.stop().await;
    let admin = divided().admin().unwrap();
    admin.rebuild(NAME, RebuildOptions::new()).await.unwrap();
    model.seen.lock().unwrap().clear();
    run_once(divided()).await;
    delivered(model)
}

async fn activating_past_the_parked_effects_of_version_1_is_refused<DB: TestDatabase>(
    db: Database<DB>,
) {
    one_parked(&db).await;
    // It starts where version 1 stands, so that the parked event is left to version 1.
    let second = mails(Settings::default().start_from(StartFrom::Now));
    run_once(db.worker().registered(versioned(&second, 2))).await;
    assert_eq!(second.seen(), []);
    let second = db.worker().registered(versioned(&second, 2));
    let admin = second.admin().unwrap();
    let refused = admin.activate(version(2), ActivateOptions::new()).await;
    assert!(
        matches!(&refused, Err(AdminError::HasParked { consumer, parked: 1 }) if consumer.version == 1),
        "{refused:?}"
    );
    let forced = ActivateOptions::new().force();
    admin.activate(version(2), forced).await.unwrap();
}

async fn forgetting_a_version_with_parked_effects_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let (_, [parked, _]) = one_parked(&db).await;
    let admin = Admin::new(db.store.clone());
    let refused = admin.forget(NAME, ForgetOptions::new()).await;
    assert!(matches!(
        refused,
        Err(AdminError::WouldDiscard { parked: 1, .. })
    ));
    assert_eq!(db.parked(NAME).await, [parked]);
}

async fn compacting_the_ledger_keeps_what_no_other_range_covers<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["a", "b", "c"]).await;
    let worker = || db.worker().consumer(mails(parking()));
    run_once(worker()).await;
    db.execute(
        "INSERT INTO consumer_handled (consumer, scope, slice_from, slice_to, after, up_to)
         VALUES ('mails', '', 0, 1024, 0, 2), ('mails', '', 0, 1024, 1, 30),
                ('mails', '', 0, 1024, 5, 9), ('mails', '', 0, 512, 2, 40)",
    )
    .await;
    let admin = worker().admin().unwrap();
    let forgotten = admin.forget(NAME, ForgetOptions::new().force()).await;
    forgotten.unwrap();
    // What it had handled, from 1 to 3, covers the first.
    let ranges = "SELECT after * 100 + up_to FROM consumer_handled ORDER BY 1";
    assert_eq!(db.numbers(ranges).await, [3, 130, 240]);
}
