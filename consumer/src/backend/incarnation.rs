//! Which run of a server something was observed in.

/// The incarnation of the server in which something was observed.
///
/// A crash can undo commits that were observed, and their positions are then used again, so observations of
/// one incarnation prove nothing about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Incarnation {
    /// When the server started, in microseconds since 1970.
    pub started: i64,
    /// When its statistics were reset, in microseconds since 1970: the crash of one backend restarts all
    /// of them, which the start time of the server does not show.
    pub recovered: i64,
}
