//! Which of the declared consumers a worker runs.

use super::crates::{Crates, crate_of};
use super::entry::Entry;
use super::error::Problem;

/// Selects declared consumers by crate and by group; all of them by default.
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
    /// Selects every consumer of the program.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Restricts the selection to consumers that are declared in these crates.
    #[must_use]
    pub fn in_crates(mut self, crates: Crates) -> Self {
        self.crates = Some(crates);
        self
    }

    /// Restricts the selection to consumers that are declared with this `group`.
    #[must_use]
    pub fn in_group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Returns the entries of the named crates, of any group.
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

    /// Returns the named crates and the group without consumers. `entries` are those of the named
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
