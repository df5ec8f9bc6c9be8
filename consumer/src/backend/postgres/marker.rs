//! Which server answers a statement.
//!
//! Behind one address there can be several: a standby, a server that was promoted, or one that a balancer
//! chose. Only the server on which the frontier was found can tell what is settled, so each statement
//! whose answer is evidence returns a marker too. A second statement could reach another server.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::backend::Incarnation;

/// Which server answers, as the numbers of a [`Marker`]; next to `server_incarnation!`. With a condition
/// under which it hides events of the log.
macro_rules! server_marker {
    () => {
        server_marker!("false")
    };
    ($hides:expr) => {
        concat!(
            "ARRAY[",
            server_incarnation!(started),
            ", ",
            server_incarnation!(recovered),
            ", pg_is_in_recovery()::int, (",
            $hides,
            ")::int]"
        )
    };
}

pub(super) use server_marker;

/// Which server answered a statement that yields evidence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marker {
    pub(super) incarnation: Incarnation,
    pub(super) is_standby: bool,
    /// Whether row-level security hides events of the log, so that they look like gaps.
    pub(super) hides_events: bool,
}

impl Marker {
    /// The marker in the last column of a row; `None` if it is not there.
    pub(super) fn decode(row: &PgRow) -> Result<Option<Self>, sqlx::Error> {
        let last = row.len().saturating_sub(1);
        let numbers: Option<Vec<i64>> = row.try_get(last)?;
        Ok(numbers.and_then(|numbers| Self::of(&numbers)))
    }

    /// The marker in a text, its numbers with spaces between them.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let numbers: Result<Vec<i64>, _> = text.split(' ').map(str::parse).collect();
        Self::of(&numbers.ok()?)
    }

    fn of(numbers: &[i64]) -> Option<Self> {
        match *numbers {
            [started, recovered, standby, hides] => Some(Self {
                incarnation: Incarnation { started, recovered },
                is_standby: standby != 0,
                hides_events: hides != 0,
            }),
            _ => None,
        }
    }

    /// The marker in a row that must have one.
    pub(super) fn expect(row: &PgRow) -> Result<Self, sqlx::Error> {
        Self::decode(row)?.ok_or_else(|| no_proof(NO_MARKER))
    }
}

const NO_MARKER: &str = "the answer does not tell which server it is from";

/// The reason why an answer of another incarnation of the server is discarded.
pub(super) const RESTARTED: &str =
    "the answer is from another server than the frontier, or the server restarted in between";

/// Refuses an answer that is not from the incarnation of the server on which the frontier was found.
pub(super) fn refuse_foreign(
    marker: Option<Marker>,
    incarnation: Incarnation,
) -> Result<(), sqlx::Error> {
    match marker {
        None => Err(no_proof(NO_MARKER)),
        Some(marker) if marker.is_standby => Err(no_proof(
            "the answer is that of a standby, which may lack events; connect the worker to the primary",
        )),
        Some(marker) if marker.incarnation != incarnation => Err(no_proof(RESTARTED)),
        Some(marker) if marker.hides_events => Err(no_proof(
            "row-level security hides events of the log from the worker's role",
        )),
        Some(_) => Ok(()),
    }
}

/// The error of an answer that was discarded. The connection is not used again.
pub(super) fn no_proof(reason: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(reason))
}
