//! Random histories on SQLite, compared with a reference model.
//!
//! Most are the same each time; where `CI` is not set, some are random, and name their seeds when they
//! fail. `HISTORY_SEED` plays one history, and `HISTORIES` another number of them: with 100,000 for some
//! hours. One takes about a fifth of a second of a core.

use consumer::StartFrom;
use consumer_tests::history::{
    Append, CONSUMERS, Count, Damage, Knowledge, Menu, Release, Script, Step, play, play_histories,
};
use sqlx::Sqlite;

fn menu() -> Menu {
    Menu {
        concurrent_writers: false,
        own_server: false,
        hangs: 2_000,
        steps: 4..16,
        without: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_lose_nothing_and_repeat_nothing() {
    let count = Count {
        fixed: 2_000,
        random: 20,
        at_once: 6,
    };
    play_histories::<Sqlite>(&(), menu(), count).await;
}

/// A control for each kind of damage, which no worker does.
async fn finds(damage: Damage) -> Vec<String> {
    let mut found = Vec::new();
    for seed in 0..20 {
        let mut steps = menu().steps(seed);
        // Only the first releases, and events of which the last ones are not handled yet.
        steps.truncate(CONSUMERS);
        let append = Step::Append(Append::Plain, 0, vec![Script::Fail, Script::Succeed]);
        steps.extend([append.clone(), Step::Run, append]);
        steps.push(Step::Damage(damage));
        found.extend(play::<Sqlite>(&(), &steps).await.err());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_raised_is_found() {
    let found = finds(Damage::RaiseCheckpoints).await;
    assert!(
        found.iter().any(|wrong| wrong.contains("was lost")),
        "{found:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_handled_twice_is_found() {
    let found = finds(Damage::HandleTwice).await;
    assert!(
        found
            .iter()
            .any(|wrong| wrong.contains("2 times in the read model")),
        "{found:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_event_that_was_dropped_is_found() {
    let found = finds(Damage::DropParked).await;
    assert!(
        found
            .iter()
            .any(|wrong| wrong.contains("the model says Some(Parked)")),
        "{found:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_a_read_model_that_was_lost_is_found() {
    let found = finds(Damage::DropRow).await;
    assert!(
        found
            .iter()
            .any(|wrong| wrong.contains("0 times in the read model of (\"totals\", 1)")),
        "{found:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_row_that_passed_its_unknown_event_is_found() {
    let mut steps = menu().steps(0);
    steps.truncate(CONSUMERS);
    for step in &mut steps {
        if let Step::Deploy(_, release, _) = step {
            release.scope.clear();
            release.start_from = StartFrom::Beginning;
            release.of_new = Knowledge::Nothing;
        }
    }
    let scripts = vec![Script::Succeed, Script::New(1), Script::Succeed];
    steps.extend([Step::Append(Append::Plain, 0, scripts), Step::Run]);
    let undamaged = play::<Sqlite>(&(), &steps).await;
    assert_eq!(undamaged, Ok(()));
    steps.push(Step::Damage(Damage::PassUnknown));
    let found = play::<Sqlite>(&(), &steps).await;
    assert!(
        matches!(&found, Err(wrong) if wrong.contains("was lost")),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_another_version_than_the_active_one_is_found() {
    let mut steps = menu().steps(0);
    steps.truncate(CONSUMERS);
    let Some(Step::Deploy(totals, first, _)) = steps.last().cloned() else {
        panic!("the last first step is a release: {steps:?}");
    };
    let second = Release {
        version: 2,
        start_from: StartFrom::Beginning,
        ..first
    };
    steps.push(Step::Deploy(totals, second, true));
    let append = Step::Append(Append::Plain, 0, vec![Script::Succeed]);
    steps.extend([append, Step::Run, Step::Damage(Damage::ActivateInSecret)]);
    let found = play::<Sqlite>(&(), &steps).await;
    assert!(
        matches!(&found, Err(wrong) if wrong.contains("the view of `totals` shows")),
        "{found:?}"
    );
}
