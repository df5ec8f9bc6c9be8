//! What an append expects of its aggregate.

use std::fmt;

/// The version that an aggregate must have for an append to go through.
///
/// It is how a command makes sure that nobody has changed the aggregate since it was loaded; see
/// [`EventStore::append`](crate::EventStore::append).
///
/// ```
/// use consumer::ExpectedVersion;
///
/// assert_eq!(ExpectedVersion::NoStream.to_string(), "no events");
/// assert_eq!(ExpectedVersion::Exact(3).to_string(), "version 3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Whatever it is.
    Any,
    /// The aggregate has no events yet.
    NoStream,
    /// The last event of the aggregate has this version; 0 is the same as `NoStream`.
    Exact(i64),
}

impl ExpectedVersion {
    /// The version to compare with, or `None` when any will do.
    pub(crate) fn version(self) -> Option<i64> {
        match self {
            Self::Any => None,
            Self::NoStream => Some(0),
            Self::Exact(version) => Some(version),
        }
    }

    /// Whether an aggregate at `actual` is as expected.
    pub(crate) fn admits(self, actual: i64) -> bool {
        self.version().is_none_or(|expected| expected == actual)
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::NoStream => f.write_str("no events"),
            Self::Exact(version) => write!(f, "version {version}"),
        }
    }
}
