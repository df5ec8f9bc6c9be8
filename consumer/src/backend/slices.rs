//! Slices: how the aggregates of a log are divided among segments.

use md5::{Digest as _, Md5};

/// The number of slices into which the aggregates of the log are divided.
pub(crate) const SLICES: u16 = 1024;

/// Returns the slice of an aggregate, 0 to 1023: a segment of a consumer is a range of slices.
///
/// It never changes, since the checkpoints of segments depend on it. In SQL on Postgres it is
/// `('x' || left(md5(convert_to(aggregate_id, 'UTF8')), 4))::bit(16)::int & 1023`.
///
/// ```
/// assert_eq!(consumer::aggregate_slice("ada"), 141);
/// ```
#[must_use]
pub fn aggregate_slice(aggregate_id: &str) -> u16 {
    let [high, low, ..] = Md5::digest(aggregate_id).0;
    u16::from_be_bytes([high, low]) & (SLICES - 1)
}
