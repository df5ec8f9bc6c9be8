//! The table that has, for each row, the first event that it has yet to handle: evidence in case it is deleted.

/// Adds what a query finds as `{pending} AS k`. It takes the place of what a row has passed and of a later event.
/// An earlier one stays: it may have been deleted since.
macro_rules! add {
    ($found:literal) => {
        concat!(
            "
    INSERT INTO {pending} AS k (consumer, version, slice_from, position)",
            $found,
            "
    ON CONFLICT (consumer, version, slice_from) DO UPDATE SET position = excluded.position
     WHERE excluded.position < k.position
        OR NOT EXISTS (
           SELECT 1 FROM {progress} AS p
            WHERE p.consumer = k.consumer AND p.version = k.version AND p.slice_from = k.slice_from
              AND k.position > p.position)"
        )
    };
}

/// Only of a row that has yet to handle it, and only if the server still is the one where it was seen.
pub(super) const NOTE_PENDING: &str = add!(
    "
    SELECT $1, $2, $3, $4
     WHERE {same incarnation}
       AND EXISTS (SELECT 1 FROM {progress}
                    WHERE consumer = $1 AND version = $2 AND slice_from = $3 AND position < $4
                      AND epoch = $7)"
);

/// The events at which the rows of a version stopped or wait, before the rows forget them.
pub(super) const KEEP_NEXT: &str = add!(
    "
    SELECT consumer, version, slice_from, {known next}
      FROM {progress}
     WHERE consumer = $1 AND version = $2 AND {known next} > position
     ORDER BY slice_from"
);

/// The evidence of a row, for another one at the same position that gets some of its slices, or all.
pub(super) const COPY_PENDING: &str = add!(
    "
    SELECT e.consumer, e.version, $4, e.position
      FROM {pending} AS e
     WHERE e.consumer = $1 AND e.version = $2 AND e.slice_from = $3
       AND e.position > (SELECT p.position FROM {progress} AS p
                          WHERE p.consumer = e.consumer AND p.version = e.version
                            AND p.slice_from = e.slice_from)"
);

/// Evidence that a row has passed, or has left behind when it was merged, is obsolete.
pub(super) const DROP_PASSED: &str = "
    DELETE FROM {pending} AS k
     WHERE NOT EXISTS (
           SELECT 1 FROM {progress} AS p
            WHERE p.consumer = k.consumer AND p.version = k.version AND p.slice_from = k.slice_from
              AND p.position < k.position)";

pub(super) const FORGET_PENDING: &str =
    "DELETE FROM {pending} WHERE consumer = $1 AND version = $2";
