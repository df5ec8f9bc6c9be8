//! Holding a mark while a handler works without a claim.

use std::time::Duration;

use super::checkpoints::{CheckpointStatements, Checkpoints};
use super::marks::{expire_of_the_dead, on_mark};
use super::rows::{ConsumerId, MarkHolder, millis, on_consumer};
use super::sql::Statement;

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

/// The statement that ends a mark whose holder was dropped; the next one learns of it.
pub(crate) fn expire_mark<DB: Checkpoints>(
    statements: &CheckpointStatements,
    holder: &MarkHolder,
) -> Statement<DB> {
    on_consumer::<DB>(&statements.expire_mark, &holder.consumer).bind(&*holder.name())
}

/// Ends the marks on a consumer whose holders were killed; the next ones learn of it.
pub(crate) async fn expire_marks_of_the_dead<DB: Checkpoints>(
    statements: &CheckpointStatements,
    connection: &mut DB::Connection,
    consumer: &ConsumerId,
) -> Result<(), sqlx::Error> {
    let of_the_dead = (&statements.mark_holders, &statements.expire_mark);
    expire_of_the_dead::<DB>(of_the_dead, connection, consumer).await
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use sqlx::Sqlite;

    use super::*;
    use crate::SqliteEventStore;
    use crate::backend::pool::acquire;

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
        let expire = expire_mark::<Sqlite>(statements, &first);
        expire.execute(&mut connection).await.unwrap();
        let taken = take_mark::<Sqlite>(statements, &mut connection, &second, TIMEOUT);
        assert_eq!(taken.await.unwrap(), Some(vec!["a".to_owned()]));
        // It has been succeeded.
        let renewed = renew_mark::<Sqlite>(statements, &mut connection, &first, TIMEOUT);
        assert!(!renewed.await.unwrap());
    }
}
