//! Small batches while an old transaction is open, as that of a dump is.

use consumer_tests::measuring::in_turns;
use sqlx::{Postgres, SqlSafeStr as _};

use crate::case::{Case, Target};
use crate::consumers::Nothing;
use crate::log::Log;
use crate::plan::Plan;

const SMALL: &str = "Postgres, batches of one event, during a dump";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.only.wants(SMALL) {
        return Vec::new();
    }
    let log = Log::<Postgres>::new(plan.scaled(100_000, 500)).await;
    // Otherwise the disk decides how long a commit takes.
    set(&log, "SET synchronous_commit = off").await;
    let samples = in_turns(
        plan.rounds.min(3),
        async || during_a_dump(&log).await,
        async || small_batches(&log).await,
    );
    let samples = samples.await;
    set(&log, "RESET synchronous_commit").await;
    vec![Case::compared(
        SMALL,
        "events/s",
        samples,
        "without one",
        Target::AtLeast(0.95),
    )]
}

/// Changes a setting of the server.
async fn set(log: &Log<Postgres>, change: &str) {
    log.db.execute(&format!("ALTER SYSTEM {change}")).await;
    log.db.execute("SELECT pg_reload_conf()").await;
}

/// Keeps all versions of the checkpoint row that come to be meanwhile.
async fn during_a_dump(log: &Log<Postgres>) -> f64 {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ".into_sql_str();
    let mut dump = log.db.pool.begin_with(begin).await.unwrap();
    let sees = sqlx::query("SELECT count(*) FROM consumer_progress");
    sees.execute(&mut *dump).await.unwrap();
    let rate = small_batches(log).await;
    dump.rollback().await.unwrap();
    // The other way is not measured with these versions.
    log.db.execute("VACUUM FULL consumer_progress").await;
    rate
}

async fn small_batches(log: &Log<Postgres>) -> f64 {
    log.worker(|worker| {
        worker
            .consumer(Nothing::named("small"))
            .configure_all(|settings| settings.batch_size(1))
    })
    .await
}
