//! Marks: which slices of a consumer a process works on while it has no claim.
//!
//! Where a claim would keep all other writers out, a handler without `tx` works between two claims, and a
//! row in `{marks}` takes the place of the claim meanwhile. The holder's name says what it keeps out:
//! - `replay: …` keeps out other lanes of the version, and everyone who changes its rows;
//! - `waiting: …` lets no lane begin another batch, so that a command gets its turn after this one;
//! - any other name also keeps other versions from handling the same events first.

use std::ops::Range;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::Pool;

use super::acquire;
use super::checkpoints::{CheckpointStatements, Checkpoints};
use super::driver::Driver;
use super::events::Events;
use super::rows::{ConsumerId, MarkHolder, millis, on_consumer};
use super::sql::{Sql, Statement};

/// How long no batch begins after a caller found the slices at work; longer than the pause before it tries
/// again.
const WAIT_FOR: Duration = Duration::from_secs(1);

/// The marks that keep version `$2` from handling events of slices `$3` to `$4` first.
macro_rules! of_other_versions {
    () => {
        "SELECT 1 FROM {marks}
          WHERE consumer = $1 AND version <> $2 AND slice_from < $4 AND slice_to > $3
            AND held_until > {now}
            AND holder NOT LIKE 'replay: %' AND holder NOT LIKE 'waiting: %'"
    };
}
pub(super) use of_other_versions;

/// Takes the mark `$5` for `$6` milliseconds, under the claim of a row or after [`IS_WORKING`].
pub(super) const TAKE: &str = concat!(
    "
    INSERT INTO {marks} (consumer, version, holder, slice_from, slice_to, held_until)
    SELECT $1, $2, $5, $3, $4, {in $6 ms}
     WHERE $5 LIKE 'replay: %' OR NOT EXISTS (",
    of_other_versions!(),
    ")"
);

/// Only while it is there: its holder may have released it meanwhile, or been succeeded.
pub(super) const RENEW: &str = concat!(
    "
    UPDATE {marks} SET held_until = {in $6 ms}, slice_from = $3, slice_to = $4
     WHERE consumer = $1 AND version = $2 AND holder = $5
       AND ($5 LIKE 'replay: %' OR NOT EXISTS (",
    of_other_versions!(),
    "))"
);

/// Also those that no one waits with any more, and those of versions that are gone.
pub(super) const RELEASE: &str = "
    DELETE FROM {marks}
     WHERE consumer = $1
       AND ((version = $2 AND holder = $3)
            OR (held_until <= {now}
                AND (holder LIKE 'waiting: %'
                     OR version NOT IN (SELECT p.version FROM {progress} AS p
                                         WHERE p.consumer = $1))))";

/// Leaves it to the next holder to find.
pub(super) const EXPIRE: &str = "
    UPDATE {marks} SET held_until = 0 WHERE consumer = $1 AND version = $2 AND holder = $3";

/// Removes the marks of holders that did not release them, and those of the lane `$5` itself.
pub(super) const SUCCEED: &str = "
    DELETE FROM {marks}
     WHERE consumer = $1 AND version = $2 AND slice_from < $4 AND slice_to > $3
       AND holder NOT LIKE 'waiting: %' AND (held_until <= {now} OR instr(holder, $5) > 0)
 RETURNING holder";

/// Whether any process works on slices `$3` to `$4` without a claim.
pub(super) const IS_WORKING: &str = "
    SELECT EXISTS (
        SELECT 1 FROM {marks}
         WHERE consumer = $1 AND version = $2 AND slice_from < $4 AND slice_to > $3
           AND held_until > {now} AND holder NOT LIKE 'waiting: %') AS working";

pub(super) const WAIT: &str = "
    INSERT INTO {marks} (consumer, version, holder, slice_from, slice_to, held_until)
    VALUES ($1, $2, $5, $3, $4, {in $6 ms})
    ON CONFLICT (consumer, version, holder) DO UPDATE SET held_until = excluded.held_until";

/// Takes a mark under the claim of a row, or where no other process works; returns the names of former
/// holders that did not release theirs, or `None` if another version has one.
pub(crate) async fn take_mark<DB: Checkpoints>(
    statements: &CheckpointStatements,
    connection: &mut DB::Connection,
    holder: &MarkHolder,
    timeout: Duration,
) -> Result<Option<Vec<String>>, sqlx::Error> {
    let succeed = on_mark::<DB>(&statements.succeed_mark, holder).bind(&*holder.id);
    let former = succeed.fetch_all(connection).await?;
    let take = on_mark::<DB>(&statements.take_mark, holder)
        .bind(&*holder.name())
        .bind(millis(timeout));
    if take.execute(connection).await? == 0 {
        return Ok(None);
    }
    let former = former.iter().map(|row| DB::read(row, "holder"));
    former.collect::<Result<_, _>>().map(Some)
}

/// Holds a mark for longer; false if it was released or lost.
pub(crate) async fn renew_mark<DB: Checkpoints>(
    statements: &CheckpointStatements,
    connection: &mut DB::Connection,
    holder: &MarkHolder,
    timeout: Duration,
) -> Result<bool, sqlx::Error> {
    let renew = on_mark::<DB>(&statements.renew_mark, holder)
        .bind(&*holder.name())
        .bind(millis(timeout));
    Ok(renew.execute(connection).await? == 1)
}

pub(crate) async fn release_mark<DB: Checkpoints>(
    statements: &CheckpointStatements,
    connection: &mut DB::Connection,
    holder: &MarkHolder,
) -> Result<(), sqlx::Error> {
    let release = on_consumer::<DB>(&statements.release_mark, &holder.consumer);
    let release = release.bind(&*holder.name());
    release.execute(connection).await.map(drop)
}

/// Ends a mark whose holder was dropped; the next one learns of it.
pub(crate) fn expire_mark<DB: Checkpoints + Events>(
    statements: &CheckpointStatements,
    pool: Pool<DB>,
    holder: &MarkHolder,
) -> BoxFuture<'static, Result<(), sqlx::Error>> {
    let expire = on_consumer::<DB>(&statements.expire_mark, &holder.consumer);
    let expire = expire.bind(&*holder.name());
    Box::pin(async move {
        let mut connection = acquire(&pool).await?;
        expire.execute(&mut connection).await.map(drop)
    })
}

/// Whether a handler without a claim works on slices of a consumer. If so, lanes begin no other batch
/// there until the caller tries again, once it has committed.
pub(crate) async fn must_wait<DB: Checkpoints>(
    statements: &CheckpointStatements,
    connection: &mut DB::Connection,
    consumer: &ConsumerId,
    slices: Range<i32>,
) -> Result<bool, sqlx::Error> {
    if DB::HOLDS_CLAIMS {
        return Ok(false);
    }
    let holder = MarkHolder::waiting(consumer, slices);
    let is_working = on_mark::<DB>(&statements.is_working, &holder);
    let is_working = is_working.fetch_value(connection, "working").await?;
    if is_working {
        let wait = on_mark::<DB>(&statements.wait, &holder)
            .bind(&*holder.id)
            .bind(millis(WAIT_FOR));
        wait.execute(connection).await?;
    } else {
        release_mark::<DB>(statements, connection, &holder).await?;
    }
    Ok(is_working)
}

/// Starts a statement on marks of a consumer.
pub(super) fn on_mark<DB: Driver>(statement: &Sql, holder: &MarkHolder) -> Statement<DB> {
    on_consumer(statement, &holder.consumer)
        .bind(holder.slices.start)
        .bind(holder.slices.end)
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use sqlx::Sqlite;

    use super::*;
    use crate::SqliteEventStore;

    const TIMEOUT: Duration = Duration::from_mins(1);

    fn holder(id: &str, version: u32, is_replay: bool) -> MarkHolder {
        let name = "publisher".into();
        MarkHolder {
            consumer: ConsumerId { name, version },
            id: id.to_owned(),
            slices: 0..1024,
            is_replay,
        }
    }

    #[tokio::test]
    async fn a_mark_is_not_renewed_after_its_release() {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        let statements = &Sqlite::checkpoint_statements(store.settings());
        let mut connection = acquire(store.pool()).await.unwrap();
        let one = holder("one", 1, false);
        for round in 0..2 {
            let renewed = renew_mark::<Sqlite>(statements, &mut connection, &one, TIMEOUT);
            assert!(!renewed.await.unwrap(), "{round}");
            let taken = take_mark::<Sqlite>(statements, &mut connection, &one, TIMEOUT);
            assert_eq!(taken.await.unwrap(), Some(vec![]));
            let renewed = renew_mark::<Sqlite>(statements, &mut connection, &one, TIMEOUT);
            assert!(renewed.await.unwrap(), "{round}");
            release_mark::<Sqlite>(statements, &mut connection, &one)
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_mark_keeps_other_versions_out_unless_it_is_of_replays() {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        let statements = &Sqlite::checkpoint_statements(store.settings());
        let mut connection = acquire(store.pool()).await.unwrap();
        for (first, second, is_free) in [
            (holder("a", 1, false), holder("b", 2, false), false),
            (holder("a", 1, true), holder("b", 2, false), true),
            (holder("a", 1, false), holder("b", 2, true), true),
        ] {
            let taken = take_mark::<Sqlite>(statements, &mut connection, &first, TIMEOUT);
            assert!(taken.await.unwrap().is_some());
            let taken = take_mark::<Sqlite>(statements, &mut connection, &second, TIMEOUT);
            assert_eq!(taken.await.unwrap().is_some(), is_free);
            for holder in [&first, &second] {
                release_mark::<Sqlite>(statements, &mut connection, holder)
                    .await
                    .unwrap();
            }
        }
    }

    #[tokio::test]
    async fn an_expired_mark_is_reported_to_the_next_holder() {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        let statements = &Sqlite::checkpoint_statements(store.settings());
        let (first, second) = (holder("a", 1, false), holder("b", 1, false));
        let mut connection = acquire(store.pool()).await.unwrap();
        let taken = take_mark::<Sqlite>(statements, &mut connection, &first, TIMEOUT);
        assert_eq!(taken.await.unwrap(), Some(vec![]));
        expire_mark::<Sqlite>(statements, store.pool().clone(), &first)
            .await
            .unwrap();
        let taken = take_mark::<Sqlite>(statements, &mut connection, &second, TIMEOUT);
        assert_eq!(taken.await.unwrap(), Some(vec!["a".to_owned()]));
        // It has been succeeded.
        let renewed = renew_mark::<Sqlite>(statements, &mut connection, &first, TIMEOUT);
        assert!(!renewed.await.unwrap());
    }
}
