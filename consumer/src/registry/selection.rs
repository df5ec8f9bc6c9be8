//! Which of the declared consumers a worker takes.

use super::crates::{Crates, crate_of};
use super::entry::Entry;
use super::error::Problem;

/// Chooses among the declared consumers, by crate and by group; without either, all of them.
///
/// ```
/// use consumer::{Selection, consumers};
///
/// let selection = Selection::all().in_crates(consumers![crate]).in_group("projections");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Selection {
    crates: Option<Crates>,
    group: Option<String>,
}

impl Selection {
    /// Takes every consumer of the program.
    ///
    /// See [`Selection`] for an example.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Takes only those declared in these crates.
    ///
    /// See [`Selection`] for an example.
    #[must_use]
    pub fn in_crates(mut self, crates: Crates) -> Self {
        self.crates = Some(crates);
        self
    }

    /// Takes only those declared with this `group`.
    ///
    /// See [`Selection`] for an example.
    #[must_use]
    pub fn in_group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The entries of the named crates, whatever their group.
    pub(super) fn by_crate(&self, entries: Vec<&'static Entry>) -> Vec<&'static Entry> {
        match &self.crates {
            None => entries,
            Some(crates) => entries
                .into_iter()
                .filter(|entry| crates.contain(entry.site.module))
                .collect(),
        }
    }

    pub(super) fn by_group(&self, entries: Vec<&'static Entry>) -> Vec<&'static Entry> {
        match &self.group {
            None => entries,
            Some(group) => entries
                .into_iter()
                .filter(|entry| entry.group == Some(group.as_str()))
                .collect(),
        }
    }

    /// The named crates and the group without a single consumer. `entries` are those of the named
    /// crates.
    pub(super) fn unmet(&self, entries: &[&'static Entry]) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .crates
            .iter()
            .flat_map(Crates::names)
            .filter(|&&name| {
                !entries
                    .iter()
                    .any(|entry| crate_of(entry.site.module) == name)
            })
            .map(|&name| Problem::NothingFromCrate { name })
            .collect();
        problems.extend(self.unmet_group(entries));
        problems
    }

    fn unmet_group(&self, entries: &[&'static Entry]) -> Option<Problem> {
        let name = self.group.clone()?;
        let mut groups: Vec<_> = entries.iter().filter_map(|entry| entry.group).collect();
        groups.sort_unstable();
        groups.dedup();
        (!groups.contains(&name.as_str())).then_some(Problem::NothingInGroup { name, groups })
    }
}
