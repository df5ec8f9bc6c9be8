//! How a command ends.

use std::process::ExitCode;

/// How a command ended, and the exit code for it; see [`Console`](super::Console) for a test that
/// uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// 0: the command succeeded, or everything is well.
    Done,
    /// 1: the database, the tables, a consumer's code or the output failed.
    Failed,
    /// 2: the command line is wrong; clap exits with this code too.
    Usage,
    /// 3: a consumer stopped, is held back, waits for another release or has no worker while events wait, its
    /// scope changed, a parked event failed again, or the log has events that the program does not know. A
    /// paused consumer is well.
    Unwell,
    /// 4: refused, nothing was changed: the command was not confirmed, a worker is processing a
    /// batch of the consumer, or the message says what to do first.
    Refused,
}

impl Exit {
    /// Returns the exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unwell => 3,
            Self::Refused => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
