//! Random histories on Postgres, with transactions open beside the worker, compared with a
//! reference model.
//!
//! Most are the same each time; where `CI` is not set, some are random, and name their seeds when they
//! fail. `HISTORY_SEED` plays one history, `HISTORIES` another number of them.

use consumer_tests::TestPostgres;
use consumer_tests::history::{
    Append, CONSUMERS, Count, Damage, Menu, Script, Step, play, play_histories,
};
use sqlx::Postgres;

fn menu() -> Menu {
    Menu {
        concurrent_writers: true,
        own_server: false,
        hangs: 400,
        steps: 10..50,
        without: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_lose_nothing_and_repeat_nothing() {
    let count = Count {
        fixed: 20,
        random: 10,
        at_once: 2,
    };
    play_histories::<Postgres>(&None, menu(), count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_in_which_the_server_crashes_lose_nothing() {
    let server = TestPostgres::builder().start();
    let menu = Menu {
        own_server: true,
        ..menu()
    };
    // One at a time, since all would lose the server.
    let count = Count {
        fixed: 4,
        random: 1,
        at_once: 1,
    };
    play_histories::<Postgres>(&Some(server), menu, count).await;
}

/// A control: damage that no worker does is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_raised_is_found() {
    let mut found = Vec::new();
    for seed in 0..3 {
        let mut steps = menu().steps(seed);
        // Only the first releases, and events of which the last ones are not handled yet.
        steps.truncate(CONSUMERS);
        let append = Step::Append(Append::Plain, 0, vec![Script::Fail, Script::Succeed]);
        steps.extend([append.clone(), Step::Run, append]);
        steps.push(Step::Damage(Damage::RaiseCheckpoints));
        found.extend(Box::pin(play::<Postgres>(&None, &steps)).await.err());
    }
    assert!(
        found.iter().any(|wrong| wrong.contains("was lost")),
        "{found:#?}"
    );
}
