//! The version of the tables.

/// The version of the tables that this library knows.
pub(super) const KNOWN: usize = 7;
