//! What can be wrong with the consumers of a program, told all at once.

use std::fmt;

use thiserror::Error;

use super::{MissingDependency, Site};
use crate::contract::HandlerError;

/// Everything that is wrong with the declared consumers.
///
/// ```standalone_crate
/// # #[cfg(all(feature = "auto-register", feature = "sqlite"))] {
/// use consumer::sqlx::Sqlite;
/// use consumer::{Dependencies, Problem, Registry};
///
/// let error = Registry::<Sqlite>::discover_group("mails", &Dependencies::new()).unwrap_err();
/// for problem in error.problems() {
///     match problem {
///         Problem::NothingInGroup { name, .. } => assert_eq!(name, "mails"),
///         other => panic!("{other}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct RegistryError {
    problems: Vec<Problem>,
}

impl RegistryError {
    pub(super) fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self { problems })
        }
    }

    pub(super) fn one(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }

    /// The problems, at least one.
    ///
    /// See [`RegistryError`] for an example.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [only] => only.fmt(f),
            several => {
                write!(f, "{} problems with the declared consumers:", several.len())?;
                several
                    .iter()
                    .try_for_each(|problem| write!(f, "\n- {problem}"))
            }
        }
    }
}

impl std::error::Error for RegistryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.problems.as_slice() {
            [only] => only.source(),
            _ => None,
        }
    }
}

/// One thing that is wrong with the declared consumers.
///
/// Its text says what to do; see [`RegistryError`] for an example of one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Problem {
    /// A name is declared at two sites, and they would share one checkpoint (R1).
    #[error(
        "`{name}` is declared {} times, and a name keys one checkpoint: rename all but one of {}",
        sites.len(),
        sites.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    )]
    SameName {
        /// The name.
        name: String,
        /// Where it is declared.
        sites: Vec<Site>,
    },
    /// An `init` asked for something that was not provided.
    #[error("`{name}`, declared at {site}, cannot be made: {missing}")]
    MissingDependency {
        /// The consumer's name.
        name: String,
        /// Where it is declared.
        site: Site,
        /// What it asked for.
        missing: MissingDependency,
    },
    /// An `init` failed.
    #[error("the `init` of `{name}`, declared at {site}, failed: {error}")]
    Init {
        /// The consumer's name.
        name: String,
        /// Where it is declared.
        site: Site,
        /// What it said.
        error: HandlerError,
    },
    /// A crate in `consumers![…]` declares no consumer.
    #[error(
        "`consumers![…]` names the crate `{name}`, which contributed no consumer: leave it out, or check that its `#[consumer]` items are compiled in (features, `cfg`, the feature `auto-register`); a crate that Cargo.toml renames is named by its own name, as in `{name} = \"its_name\"`"
    )]
    NothingFromCrate {
        /// The crate.
        name: &'static str,
    },
    /// The group that was asked for has no consumer.
    #[error(
        "no consumer is in the group `{name}`: {}",
        if groups.is_empty() {
            "no consumer here names one with `group = \"…\"`".to_owned()
        } else {
            format!("the groups are `{}`", groups.join("`, `"))
        }
    )]
    NothingInGroup {
        /// The group.
        name: String,
        /// The groups that do have consumers.
        groups: Vec<&'static str>,
    },
    /// Consumers do not register themselves in this program.
    #[error(
        "this program is built without the feature `auto-register` of `consumer`, so that declared consumers are not found: enable it, or name each with `Worker::builder(…).consumer(…)`"
    )]
    NoAutoRegister,
}
