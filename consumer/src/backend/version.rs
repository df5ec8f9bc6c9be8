//! The version of the tables.

/// The version of the tables that this library knows.
pub(super) const KNOWN: usize = 8;

/// The oldest version that a library must know to work with the tables, unless older libraries are refused.
pub(super) const NEEDED: usize = 4;
