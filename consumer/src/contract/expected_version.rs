//! The version that an append expects.

use std::fmt;

/// The version that an aggregate must have for an [append](crate::EventStore::append) to succeed.
///
/// With it, a command makes sure that the aggregate has not changed since it was loaded.
///
/// ```
/// use consumer::ExpectedVersion;
///
/// assert_eq!(ExpectedVersion::NoStream.to_string(), "no events");
/// assert_eq!(ExpectedVersion::Exact(3).to_string(), "version 3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Any version.
    Any,
    /// The aggregate has no events yet.
    NoStream,
    /// The last event of the aggregate has this version; 0 is the same as `NoStream`.
    Exact(i64),
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
impl ExpectedVersion {
    /// The version to compare with, or `None` for any.
    pub(crate) fn version(self) -> Option<i64> {
        match self {
            Self::Any => None,
            Self::NoStream => Some(0),
            Self::Exact(version) => Some(version),
        }
    }

    /// Whether an aggregate at version `actual` is as expected.
    #[cfg(feature = "sqlite")]
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
