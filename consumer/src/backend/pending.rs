//! The table of events that rows have yet to handle: evidence in case they are deleted.
//!
//! A row has two places in it. At its first slice is the first event that it has yet to handle, as a worker has
//! found; at its last slice another one, which is kept before something else takes its place in the row or at
//! the first slice. When rows are merged, their places stay, and are among the slices of the merged row.

/// Of the rows `p`, the one that has the slice at which a place `k` is.
macro_rules! of_place {
    () => {
        "p.consumer = k.consumer AND p.version = k.version
              AND p.slice_from <= k.slice_from AND p.slice_to > k.slice_from"
    };
}

/// Of a row `p`, the first event that it has yet to handle according to its places but the one at its first slice, or
/// else one that it has passed.
macro_rules! kept {
    () => {
        "(SELECT coalesce(min(CASE WHEN k.position > p.position THEN k.position END),
                            min(k.position))
              FROM {pending} AS k
             WHERE k.consumer = p.consumer AND k.version = p.version
               AND k.slice_from > p.slice_from AND k.slice_from < p.slice_to)"
    };
}
pub(in crate::backend) use kept;

/// Adds what a query finds as `{pending} AS k`. It takes the place of what the row has passed and of a later event.
/// An earlier one stays: it may have been deleted since.
macro_rules! add {
    ($found:expr) => {
        concat!(
            "
    INSERT INTO {pending} AS k (consumer, version, slice_from, position)",
            $found,
            "
    ON CONFLICT (consumer, version, slice_from) DO UPDATE SET position = excluded.position
     WHERE excluded.position < k.position
        OR NOT EXISTS (
           SELECT 1 FROM {progress} AS p
            WHERE ",
            of_place!(),
            " AND p.position < k.position)"
        )
    };
}

macro_rules! keep_all {
    ($condition:literal) => {
        concat!(
            "
    SELECT n.consumer, n.version, n.slice_to - 1, min(n.next)
      FROM (SELECT consumer, version, slice_from, slice_to, position, failed_position AS next
              FROM {progress}
             UNION ALL
            SELECT consumer, version, slice_from, slice_to, position, unknown_position
              FROM {progress}
             UNION ALL
            SELECT p.consumer, p.version, p.slice_from, p.slice_to, p.position, f.position
              FROM {progress} AS p JOIN {pending} AS f
                ON f.consumer = p.consumer AND f.version = p.version AND f.slice_from = p.slice_from
           ) AS n
     WHERE n.consumer = $1 AND n.version = $2 AND n.next > n.position",
            $condition,
            "
     GROUP BY n.consumer, n.version, n.slice_to"
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

/// An event that a row names before it names another one; `$3` is its last slice.
pub(super) const KEEP_NAMED: &str = add!(
    "
    VALUES ($1, $2, $3, $4)"
);

/// The first event of each row of a version that is known, before what is known of it is cleared.
pub(super) const KEEP_ALL: &str = add!(keep_all!(""));

/// Those that no version has handled, before the version handles all events again.
pub(super) const KEEP_UNHANDLED: &str = add!(keep_all!(
    "
       AND n.next > coalesce((SELECT max(h.up_to) FROM {handled} AS h
                               WHERE h.consumer = n.consumer AND h.slice_from < n.slice_to
                                 AND h.slice_to > n.slice_from), 0)"
));

/// What was found of the rows of a version, and what they have passed.
pub(super) const FORGET_FOUND: &str = concat!(
    "
    DELETE FROM {pending} AS k
     WHERE k.consumer = $1 AND k.version = $2
       AND NOT EXISTS (
           SELECT 1 FROM {progress} AS p
            WHERE ",
    of_place!(),
    " AND p.slice_from < k.slice_from AND p.position < k.position)"
);

/// Of the place `$3`, for the place `$4` of a row at the same position that gets some of its slices.
pub(super) const COPY_PENDING: &str = add!(
    "
    SELECT e.consumer, e.version, $4, e.position
      FROM {pending} AS e
     WHERE e.consumer = $1 AND e.version = $2 AND e.slice_from = $3
       AND EXISTS (SELECT 1 FROM {progress} AS o
                    WHERE o.consumer = $1 AND o.version = $2 AND o.slice_from <= $3
                      AND o.slice_to > $3 AND o.position < e.position)"
);

/// What rows have passed is obsolete. Skips locked rows, so that it is in no cycle of waits.
pub(super) const DROP_PASSED: &str = concat!(
    "
    DELETE FROM {pending} WHERE (consumer, version, slice_from) IN (
        SELECT k.consumer, k.version, k.slice_from FROM {pending} AS k
         WHERE NOT EXISTS (
               SELECT 1 FROM {progress} AS p
                WHERE ",
    of_place!(),
    " AND p.position < k.position)
         {for update, skip locked})"
);

pub(super) const FORGET_PENDING: &str =
    "DELETE FROM {pending} WHERE consumer = $1 AND version = $2";
