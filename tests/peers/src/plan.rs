//! What to run, and how much of it.

use std::path::PathBuf;
use std::sync::OnceLock;

use consumer_tests::TestPostgres;

/// How much to measure.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) events: usize,
    /// How many appends each writer tries.
    pub(crate) appends: usize,
    pub(crate) out: PathBuf,
    only: Vec<String>,
}

/// How many write at once, each to an aggregate of its own.
pub(crate) const WRITERS: usize = 8;

impl Plan {
    pub(crate) fn from_arguments() -> Self {
        let quick = std::env::args().any(|argument| argument == "--quick");
        let mut plan = Self {
            rounds: if quick { 1 } else { 5 },
            events: if quick { 1_000 } else { 100_000 },
            appends: if quick { 40 } else { 500 },
            out: PathBuf::from("."),
            only: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .unwrap_or_else(|| panic!("`{argument}` needs a value"))
            };
            match argument.as_str() {
                "--quick" => {}
                "--rounds" => plan.rounds = value().parse().expect("a number of rounds"),
                "--events" => plan.events = value().parse().expect("a number of events"),
                "--appends" => plan.appends = value().parse().expect("a number of appends"),
                "--only" => plan.only.push(value()),
                "--out" => plan.out = value().into(),
                other => panic!(
                    "unknown argument `{other}`; there are --quick, --rounds N, --events N, \
                     --appends N, --only WORD and --out DIR"
                ),
            }
        }
        plan
    }

    /// Whether a peer is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(&**word))
    }

    /// A server that keeps what it commits, with the settings that it comes with: one for all, a
    /// database each.
    pub(crate) fn server() -> &'static TestPostgres {
        static SERVER: OnceLock<TestPostgres> = OnceLock::new();
        SERVER.get_or_init(|| TestPostgres::builder().setting("fsync", "on").start())
    }
}
