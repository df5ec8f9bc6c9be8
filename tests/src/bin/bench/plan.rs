//! What to run, and how much of it.

use std::path::PathBuf;
use std::sync::OnceLock;

use consumer_tests::TestPostgres;

/// How much to measure.
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) out: PathBuf,
    pub(crate) only: Vec<String>,
    /// What this process, started by another one, is to do.
    pub(crate) child: Option<Child>,
    /// How many bytes of the log the child is to keep, when it catches up.
    pub(crate) cache: Option<u64>,
}

/// What a process does for the one that measures, in the database of that URL.
pub(crate) enum Child {
    CatchUp(String),
    Append(String),
}

impl Plan {
    pub(crate) fn from_arguments() -> Self {
        let mut plan = Self {
            quick: false,
            rounds: 0,
            out: PathBuf::from("."),
            only: Vec::new(),
            child: None,
            cache: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .unwrap_or_else(|| panic!("`{argument}` needs a value"))
            };
            match argument.as_str() {
                "--quick" => plan.quick = true,
                "--rounds" => plan.rounds = value().parse().expect("a number of rounds"),
                "--out" => plan.out = value().into(),
                "--only" => plan.only.push(value()),
                "--catch-up" => plan.child = Some(Child::CatchUp(value())),
                "--append" => plan.child = Some(Child::Append(value())),
                "--cache" => plan.cache = Some(value().parse().expect("a number of bytes")),
                other => panic!(
                    "unknown argument `{other}`; there are --quick, --rounds N, --only WORD and --out DIR"
                ),
            }
        }
        if plan.rounds == 0 {
            plan.rounds = if plan.quick { 1 } else { 7 };
        }
        plan
    }

    /// Whether a case is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(&**word))
    }

    /// Whether any of these is wanted.
    pub(crate) fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wants(name))
    }

    /// The full number, or a small one that only shows that it works.
    pub(crate) fn scaled(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// A server that keeps what it commits, with the settings that it comes with: one for all
    /// cases, a database each.
    pub(crate) fn server() -> &'static TestPostgres {
        static SERVER: OnceLock<TestPostgres> = OnceLock::new();
        SERVER.get_or_init(|| TestPostgres::builder().setting("fsync", "on").start())
    }
}
