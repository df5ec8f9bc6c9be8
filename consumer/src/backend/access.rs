//! The uses of the tables, by which privileges are granted.

use std::fmt;

/// A use of a store's tables, which determines the privileges that a role needs.
///
/// [`EventStore::check_access`](crate::EventStore::check_access) names those that are missing, and the
/// guide [`deploying`](crate::guide::deploying) lists them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Appending events and reading the log.
    Append,
    /// Looking at consumers: their status, the frontier, parked events.
    Observe,
    /// Running a worker. Its handlers may need more, such as [`Append`](Self::Append).
    Work,
    /// The commands of an operator, which change checkpoints and parked events. A consumer's code that
    /// they call may need more.
    Operate,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append => "append events",
            Self::Observe => "look at consumers",
            Self::Work => "run a worker",
            Self::Operate => "operate consumers",
        })
    }
}
