//! From linked entries to the consumers of one database.

use std::collections::BTreeMap;
use std::fmt;

use sqlx::Database;

use super::entry::{Entry, Factory, linked_entries};
use super::error::{Problem, RegistryError};
use super::{Crates, Dependencies, MissingDependency, Registered, Selection, Site};
use crate::contract::HandlerError;

/// The consumers of a program that can run on the database `DB`, ordered by name.
///
/// ```standalone_crate
/// use consumer::prelude::*;
/// use consumer::sqlx::Sqlite;
/// use consumer::{Registry, Selection, consumers};
///
/// struct Users;
///
/// #[consumer(name = "users", group = "projections")]
/// impl Users {
///     async fn handle(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
///         Ok(())
///     }
/// }
///
/// struct Mails;
///
/// #[consumer(name = "mails", group = "effects")]
/// impl Mails {
///     async fn handle(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
///         Ok(())
///     }
/// }
///
/// let registry = Registry::<Sqlite>::discover()?;
/// assert_eq!(registry.registered().len(), 2);
///
/// // A process that runs only some of them.
/// let selection = Selection::all().in_crates(consumers![crate]).in_group("projections");
/// let registry = Registry::<Sqlite>::select(&selection, &Dependencies::new())?;
/// assert_eq!(registry.left_out(), ["mails"]);
/// for one in registry.into_registered() {
///     println!("{} {:?}", one.declaration.name, one.declaration.scope);
/// }
/// # Ok::<(), consumer::RegistryError>(())
/// ```
pub struct Registry<DB: Database> {
    registered: Vec<Registered<DB>>,
    other_databases: Vec<OtherDatabase>,
    left_out: Vec<&'static str>,
}

/// A consumer that was found but cannot run on the registry's database.
///
/// ```
/// use consumer::{Registry, sqlx};
///
/// /// Lists the consumers that a process leaves to others.
/// fn elsewhere<DB: sqlx::Database>(registry: &Registry<DB>) -> Vec<String> {
///     let others = registry.other_databases().iter();
///     others.map(|other| format!("{} on {}", other.name, other.databases.join(", "))).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherDatabase {
    /// The consumer's name.
    pub name: &'static str,
    /// Where it is declared.
    pub site: Site,
    /// The databases that it can run on; empty if no driver for any of them is compiled in.
    pub databases: Vec<&'static str>,
}

impl fmt::Display for OtherDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, declared at {}, ", self.name, self.site)?;
        if self.databases.is_empty() {
            write!(f, "runs on no database for which this program has a driver")
        } else {
            write!(f, "runs on {} only", self.databases.join(", "))
        }
    }
}

impl<DB: Database> Registry<DB> {
    /// Finds and creates every consumer that is declared with `#[consumer]` and linked; [`select`](Self::select)
    /// also takes the [`Dependencies`] of those that have an `init`.
    ///
    /// # Errors
    /// All problems at once: two consumers of one name or with one table, an `init` that failed or lacks a dependency, a
    /// program without the feature `auto-register`.
    pub fn discover() -> Result<Self, RegistryError> {
        Self::select(&Selection::all(), &Dependencies::new())
    }

    /// Finds the consumers of the crates named in [`consumers!`](crate::consumers).
    ///
    /// # Errors
    /// All problems at once, as for [`discover`](Self::discover), and a crate without consumers.
    pub fn discover_in(crates: Crates, dependencies: &Dependencies) -> Result<Self, RegistryError> {
        Self::select(&Selection::all().in_crates(crates), dependencies)
    }

    /// Finds the consumers that are declared with this `group`; [`RegistryError`] shows a call.
    ///
    /// # Errors
    /// All problems at once, as for [`discover`](Self::discover), and a group without consumers.
    pub fn discover_group(group: &str, dependencies: &Dependencies) -> Result<Self, RegistryError> {
        Self::select(&Selection::all().in_group(group), dependencies)
    }

    /// Finds the consumers of a [`Selection`].
    ///
    /// # Errors
    /// All problems at once, as for [`discover`](Self::discover), and a crate or a group without
    /// consumers.
    pub fn select(
        selection: &Selection,
        dependencies: &Dependencies,
    ) -> Result<Self, RegistryError> {
        if !cfg!(feature = "auto-register") {
            return Err(RegistryError::one(Problem::NoAutoRegister));
        }
        Self::of_entries(linked_entries(), selection, dependencies)
    }

    fn of_entries(
        entries: Vec<&'static Entry>,
        selection: &Selection,
        dependencies: &Dependencies,
    ) -> Result<Self, RegistryError> {
        let all: Vec<&'static str> = entries.iter().map(|entry| entry.name).collect();
        let entries = selection.by_crate(entries);
        let mut problems = selection.unmet(&entries);
        let mut entries = selection.by_group(entries);
        entries.sort_by_key(|entry| (entry.name, entry.version, entry.site));
        let left_out = names_not_in(&entries, all);

        let (here, elsewhere) = split_by_database::<DB>(&entries);
        problems.extend(names_declared_twice(&here));
        problems.extend(tables_of_several(&here));
        let mut registered = Vec::new();
        for (entry, factory) in here {
            match make(entry, factory, dependencies) {
                Ok(made) => registered.extend(made),
                Err(error) => problems.push(cannot_make(entry, error)),
            }
        }

        RegistryError::unless_empty(problems)?;
        Ok(Self {
            registered,
            other_databases: elsewhere.into_iter().map(other_database).collect(),
            left_out,
        })
    }

    /// Returns the consumers, ordered by name.
    #[must_use]
    pub fn registered(&self) -> &[Registered<DB>] {
        &self.registered
    }

    /// Returns the consumers by value, ordered by name.
    #[must_use]
    pub fn into_registered(self) -> Vec<Registered<DB>> {
        self.registered
    }

    /// Returns the names of the program's consumers outside the selection, in order.
    ///
    /// Another process runs them, so their checkpoints are not detached.
    #[must_use]
    pub fn left_out(&self) -> &[&'static str] {
        &self.left_out
    }

    /// Returns the consumers that were found but cannot run on `DB`, ordered by name.
    ///
    /// Report each [`OtherDatabase`], so that its consumer is not silently missing.
    #[must_use]
    pub fn other_databases(&self) -> &[OtherDatabase] {
        &self.other_databases
    }
}

impl<DB: Database> fmt::Debug for Registry<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("registered", &self.registered)
            .field("other_databases", &self.other_databases)
            .field("left_out", &self.left_out)
            .finish()
    }
}

fn names_not_in(entries: &[&'static Entry], mut names: Vec<&'static str>) -> Vec<&'static str> {
    names.retain(|name| !entries.iter().any(|entry| entry.name == *name));
    names.sort_unstable();
    names.dedup();
    names
}

type Here = (&'static Entry, &'static Factory);

fn split_by_database<DB: Database>(entries: &[&'static Entry]) -> (Vec<Here>, Vec<&'static Entry>) {
    let mut here = Vec::new();
    let mut elsewhere = Vec::new();
    for &entry in entries {
        match entry.factory_for::<DB>() {
            Some(factory) => here.push((entry, factory)),
            None => elsewhere.push(entry),
        }
    }
    (here, elsewhere)
}

/// `here` is ordered by name.
fn names_declared_twice(here: &[Here]) -> Vec<Problem> {
    here.chunk_by(|(one, _), (next, _)| (one.name, one.version) == (next.name, next.version))
        .filter(|same| same.len() > 1)
        .filter_map(|same| {
            let (first, _) = same.first()?;
            Some(Problem::SameName {
                name: first.name.into(),
                sites: same.iter().map(|(entry, _)| entry.site).collect(),
            })
        })
        .collect()
}

/// Tables that consumers of different names would write. `here` is ordered by name.
fn tables_of_several(here: &[Here]) -> Vec<Problem> {
    let mut owners: BTreeMap<&'static str, Vec<&'static Entry>> = BTreeMap::new();
    for (entry, _) in here {
        let Some(table) = entry.read_model else {
            continue;
        };
        let owners = owners.entry(table.name).or_default();
        if owners.last().is_none_or(|last| last.name != entry.name) {
            owners.push(entry);
        }
    }
    owners
        .into_iter()
        .filter(|(_, owners)| owners.len() > 1)
        .map(|(table, owners)| Problem::SameTable {
            table,
            consumers: owners
                .into_iter()
                .map(|entry| (entry.name.into(), entry.site))
                .collect(),
        })
        .collect()
}

fn make<DB: Database>(
    entry: &Entry,
    factory: &Factory,
    dependencies: &Dependencies,
) -> Result<Option<Registered<DB>>, HandlerError> {
    let consumer = factory.make::<DB>(dependencies)?;
    Ok(consumer.map(|consumer| Registered {
        declaration: entry.declaration(),
        consumer,
    }))
}

fn cannot_make(entry: &Entry, error: HandlerError) -> Problem {
    let missing = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<MissingDependency>())
        .cloned();
    let (name, site) = (entry.name.into(), entry.site);
    match missing {
        Some(missing) => Problem::MissingDependency {
            name,
            site,
            missing,
        },
        None => Problem::Init { name, site, error },
    }
}

fn other_database(entry: &'static Entry) -> OtherDatabase {
    OtherDatabase {
        name: entry.name,
        site: entry.site,
        databases: entry
            .factories()
            .map(|factory| factory.database_name)
            .collect(),
    }
}
