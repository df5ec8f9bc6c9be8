//! The results of an attempt at a batch.

use std::time::Duration;

use crate::backend::Claim;
use crate::worker::lane::failure::HandlerFailure;
use crate::worker::progress::tally::Tally;

/// How an attempt ended, unless the database failed.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The transaction was committed, and its checkpoint is this position.
    Saved { position: i64, tally: Tally },
    /// The handler failed, and nothing was saved.
    Failed {
        claim: Box<Claim>,
        failure: HandlerFailure,
    },
    /// The consumer was stopped at the first event.
    Stopped { error: String },
    /// Another process has claimed the row.
    Busy,
    /// The row is gone, or has another key; the next snapshot shows why.
    Gone,
    /// The checkpoint is not where the job starts, or names an event that the job should have and has not.
    Moved(Box<Claim>),
    /// The row may not run.
    Blocked(Box<Claim>),
    /// The next attempt at the first event, which has failed `attempts` times, is not due yet.
    NotDue { attempts: u32, wait: Duration },
    /// The first event was read before it failed for the last time, and may have been repaired since.
    Outdated { position: i64, attempts: u32 },
    /// The row was split or merged; the next snapshot shows how.
    Resized,
    /// The row waits for its neighbour at this position.
    Held(i64),
    /// The code does not know the event, which need not wait behind a parked one any more.
    Unknown,
    /// This release has failed on the event, which others try.
    LeftToOthers(Box<Claim>),
}
