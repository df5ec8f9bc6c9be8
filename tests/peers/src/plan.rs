//! The command-line arguments.

use std::path::PathBuf;

use consumer_tests::measuring::{Arguments, Only};

/// What to run.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) events: usize,
    /// The appends that each writer attempts.
    pub(crate) appends: usize,
    pub(crate) out: PathBuf,
    pub(crate) only: Only,
}

/// Concurrent writers, each with its own aggregate.
pub(crate) const WRITERS: usize = 8;

impl Plan {
    pub(crate) fn from_arguments() -> Self {
        let mut arguments = Arguments::given();
        let quick = arguments.flag("--quick");
        let mut number = |name, full, small| {
            let default = if quick { small } else { full };
            arguments.value(name).unwrap_or(default)
        };
        let plan = Self {
            rounds: number("--rounds", 5, 1),
            events: number("--events", 100_000, 1_000),
            appends: number("--appends", 500, 40),
            out: arguments.out(),
            only: arguments.only(),
        };
        arguments.end("--quick, --rounds N, --events N, --appends N, --only WORD and --out DIR");
        plan
    }
}
