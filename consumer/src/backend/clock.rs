//! Whether tokio's clock moves.

use std::hint;
use std::time::{Duration, Instant};

/// Whether tokio's clock stands still, as in a test with `start_paused = true`: it jumps to the next
/// timeout when nothing else is left to do, even while a database is at work.
pub(crate) fn is_paused() -> bool {
    /// Long enough for any clock to move.
    const MOMENT: Duration = Duration::from_micros(2);
    let (began, paused) = (Instant::now(), tokio::time::Instant::now());
    while began.elapsed() < MOMENT {
        hint::spin_loop();
    }
    paused.elapsed() == Duration::ZERO
}
