//! The cases to run, and the amount of data.

use std::path::PathBuf;

use consumer_tests::measuring::{Arguments, Only};

use crate::processes::Share;

/// The arguments of the program.
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) out: PathBuf,
    pub(crate) only: Only,
    /// The task of this process if another one started it.
    pub(crate) child: Option<Child>,
    /// The cache of a child that catches up, in bytes.
    pub(crate) cache: Option<u64>,
}

/// The task of a child process, in the database with that URL.
pub(crate) enum Child {
    CatchUp(String),
    Append(String),
    Fold(String),
    Share(Share),
}

impl Plan {
    pub(crate) fn from_arguments() -> Self {
        let mut arguments = Arguments::given();
        let quick = arguments.flag("--quick");
        let rounds = if quick { 1 } else { 7 };
        let catch_up = arguments.value("--catch-up").map(Child::CatchUp);
        let append = arguments.value("--append").map(Child::Append);
        let fold = arguments.value("--fold").map(Child::Fold);
        let share = Share::from_arguments(&mut arguments).map(Child::Share);
        let plan = Self {
            quick,
            rounds: arguments.value("--rounds").unwrap_or(rounds),
            out: arguments.out(),
            only: arguments.only(),
            child: catch_up.or(append).or(fold).or(share),
            cache: arguments.value("--cache"),
        };
        arguments.end("--quick, --rounds N, --only WORD and --out DIR");
        plan
    }

    /// Whether any of these cases is wanted.
    pub(crate) fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.only.wants(name))
    }

    /// The full number, or a small one that only shows that it works.
    pub(crate) fn scaled(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}
