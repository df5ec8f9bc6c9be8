//! Random histories on Postgres, with transactions open beside the worker, compared with a
//! reference model.
//!
//! `HISTORY_SEED` plays one history, `HISTORIES` another number of them.

use consumer_tests::history::{Append, Damage, Menu, Script, Step, play, play_histories};
use sqlx::Postgres;

fn menu() -> Menu {
    Menu {
        concurrent_writers: true,
        hangs: 400,
        steps: 10..50,
        // The columns of this log have no value that cannot be decoded.
        // Nor does the model know yet that a consumer which starts now skips what came before.
        without: vec!["unreadable".to_owned(), "now".to_owned()],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_lose_nothing_and_repeat_nothing() {
    play_histories::<Postgres>(menu(), 10, 4).await;
}

/// A control: damage that no worker does is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_raised_is_found() {
    let mut found = Vec::new();
    for seed in 0..3 {
        let mut steps = menu().steps(seed);
        // Only the first releases, and events of which the last ones are not handled yet.
        steps.truncate(3);
        let append = Step::Append(Append::Plain, 0, vec![Script::Fail, Script::Succeed]);
        steps.extend([append.clone(), Step::Run, append]);
        steps.push(Step::Damage(Damage::RaiseCheckpoints));
        found.extend(play::<Postgres>(&steps).await.err());
    }
    assert!(
        found.iter().any(|wrong| wrong.contains("was lost")),
        "{found:#?}"
    );
}
