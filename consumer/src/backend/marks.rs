//! Marks: which slices of a consumer a process works on while it has no claim.
//!
//! Where a claim would keep all other writers out, a handler without `tx` works between two claims, and a
//! row in `{marks}` takes the place of the claim meanwhile. The holder's name says what it keeps out:
//! - `replay: …` keeps out other lanes of the version, and everyone who changes its rows;
//! - `waiting: …` lets no lane begin another batch, so that a command gets its turn after this one;
//! - any other name also keeps other versions from handling the same events first.

use super::alive;
use super::driver::Driver;
use super::rows::{ConsumerId, MarkHolder, on_consumer};
use super::sql::{Sql, Statement};

/// The marks that keep version `$2` from handling events of slices `$3` to `$4` first.
macro_rules! of_other_versions {
    () => {
        "SELECT 1 FROM {marks}
          WHERE consumer = $1 AND version <> $2 AND slice_from < $4 AND slice_to > $3
            AND held_until > {now}
            AND holder NOT LIKE 'replay: %' AND holder NOT LIKE 'waiting: %'"
    };
}
#[cfg(feature = "sqlite")]
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

/// The marks of all versions.
pub(super) const HOLDERS: &str = "
    SELECT consumer, version, holder FROM {marks}
     WHERE consumer = $1 AND $2 = $2 AND held_until > {now} AND holder NOT LIKE 'waiting: %'";

/// Ends the marks of processes that were killed, so that no one waits until they lapse.
pub(super) async fn expire_of_the_dead<DB: Driver>(
    (holders, expire): (&Sql, &Sql),
    connection: &mut DB::Connection,
    consumer: &ConsumerId,
) -> Result<(), sqlx::Error> {
    let holders = on_consumer::<DB>(holders, consumer);
    for row in holders.fetch_all(&mut *connection).await? {
        let holder: String = DB::read(&row, "holder")?;
        if alive::has_ended(&holder) {
            let of = ConsumerId::decode::<DB>(&row)?;
            let expire = on_consumer::<DB>(expire, &of).bind(&*holder);
            expire.execute(&mut *connection).await?;
        }
    }
    Ok(())
}

/// Starts a statement on marks of a consumer.
pub(super) fn on_mark<DB: Driver>(statement: &Sql, holder: &MarkHolder) -> Statement<DB> {
    on_consumer(statement, &holder.consumer)
        .bind(holder.slices.start)
        .bind(holder.slices.end)
}
