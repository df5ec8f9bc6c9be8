//! The problems of a program's consumers, reported all at once.

use std::error::Error;
use std::fmt;

use super::{MissingDependency, Site};
use crate::contract::{HandlerError, chain};

/// Everything that is wrong with a program's consumers.
///
/// A single problem is displayed like a [`Problem`]. Several are displayed as a list, each with its
/// causes, and there is no [`source`](Error::source).
///
/// ```standalone_crate
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

    /// Returns the problems, at least one.
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
                write!(f, "{} problems with the consumers:", several.len())?;
                several
                    .iter()
                    .try_for_each(|problem| write!(f, "\n- {}", chain(problem)))
            }
        }
    }
}

impl Error for RegistryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.problems.as_slice() {
            [only] => only.source(),
            _ => None,
        }
    }
}

/// One thing that is wrong with a program's consumers; part of a [`RegistryError`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// Several consumers have the same name, and would share one checkpoint (R1).
    SameName {
        /// The name.
        name: String,
        /// Where they are declared.
        sites: Vec<Site>,
    },
    /// Consumers of different names have read models in one table, which belongs to one consumer.
    SameTable {
        /// The table.
        table: &'static str,
        /// The consumers, and where they are declared.
        consumers: Vec<(String, Site)>,
    },
    /// An `init` function asked for a dependency that was not provided.
    MissingDependency {
        /// The consumer's name.
        name: String,
        /// Where it is declared.
        site: Site,
        /// The dependency.
        missing: MissingDependency,
    },
    /// An `init` function failed.
    Init {
        /// The consumer's name.
        name: String,
        /// Where it is declared.
        site: Site,
        /// The error of the function.
        error: HandlerError,
    },
    /// A crate in `consumers![…]` declares no consumer.
    NothingFromCrate {
        /// The crate.
        name: &'static str,
    },
    /// The selected group has no consumer.
    NothingInGroup {
        /// The group.
        name: String,
        /// The groups that have consumers.
        groups: Vec<&'static str>,
    },
    /// The program is built without automatic registration.
    NoAutoRegister,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameName { name, sites } => {
                let sites: Vec<String> = sites.iter().map(Site::to_string).collect();
                write!(
                    f,
                    "`{name}` is declared {} times, and each name has one checkpoint: rename all but one of {}",
                    sites.len(),
                    sites.join(" and ")
                )
            }
            Self::SameTable { table, consumers } => {
                let consumers: Vec<String> = consumers
                    .iter()
                    .map(|(name, site)| format!("`{name}`, declared at {site}"))
                    .collect();
                write!(
                    f,
                    "the table `{table}` belongs to one consumer, but it is the read model of {}: give each a row type with its own `#[read_model(table = \"…\")]`",
                    consumers.join(", and of ")
                )
            }
            Self::MissingDependency { name, site, .. } => {
                write!(f, "cannot create `{name}`, declared at {site}")
            }
            Self::Init { name, site, .. } => {
                write!(f, "the `init` of `{name}`, declared at {site}, failed")
            }
            Self::NothingFromCrate { name } => write!(
                f,
                "`consumers![…]` names the crate `{name}`, which declares no consumer: remove it from the list, or check that its `#[consumer]` items are compiled (features, `cfg`, the feature `auto-register`) and that it depends on the same version of `consumer` as this program (`cargo tree -i consumer`); if Cargo.toml renames the crate, add its own name, as in `{name} = \"its_name\"`"
            ),
            Self::NothingInGroup { name, groups } if groups.is_empty() => write!(
                f,
                "no consumer is in the group `{name}`: no consumer of this program has a `group = \"…\"`"
            ),
            Self::NothingInGroup { name, groups } => write!(
                f,
                "no consumer is in the group `{name}`: the groups are `{}`",
                groups.join("`, `")
            ),
            Self::NoAutoRegister => f.write_str(
                "this program is built without the feature `auto-register` of `consumer`, so declared consumers cannot be found: enable the feature, or add each consumer with `Worker::builder(…).consumer(…)`",
            ),
        }
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::MissingDependency { missing, .. } => Some(missing),
            Self::Init { error, .. } => Some(error.as_error()),
            Self::SameName { .. }
            | Self::SameTable { .. }
            | Self::NothingFromCrate { .. }
            | Self::NothingInGroup { .. }
            | Self::NoAutoRegister => None,
        }
    }
}
