//! One allocation for each type name, however often it is read.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// More names than any sane program has; beyond it a name costs an allocation each time.
const MOST_NAMES: usize = 10_000;

/// A longer text is not a name, and would let one reader fill the memory of the process.
const LONGEST_NAME: usize = 256;

static NAMES: LazyLock<RwLock<HashSet<Arc<str>>>> = LazyLock::new(RwLock::default);

/// Hands out shared names while the rows of one read are decoded.
///
/// It remembers the last few itself, so that the process-wide table is not locked for each row.
#[derive(Default)]
pub(crate) struct Names {
    recent: Vec<Arc<str>>,
}

impl Names {
    const RECENT: usize = 8;

    pub(crate) fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.recent.iter().find(|known| ***known == *name) {
            return Arc::clone(known);
        }
        let shared = shared(name);
        if self.recent.len() == Self::RECENT {
            self.recent.remove(0);
        }
        self.recent.push(Arc::clone(&shared));
        shared
    }
}

fn shared(name: &str) -> Arc<str> {
    if name.len() > LONGEST_NAME {
        return name.into();
    }
    let known = NAMES
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(name)
        .cloned();
    known.unwrap_or_else(|| insert(name))
}

fn insert(name: &str) -> Arc<str> {
    let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return Arc::clone(known);
    }
    let name: Arc<str> = name.into();
    if names.len() < MOST_NAMES {
        names.insert(Arc::clone(&name));
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::{LONGEST_NAME, Names, shared};

    #[test]
    fn a_name_is_allocated_once_for_all_reads() {
        let first = Names::default().intern("Interned");
        let second = Names::default().intern("Interned");
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn more_names_than_are_remembered_still_share_one_allocation() {
        let mut names = Names::default();
        let all: Vec<_> = (0..50).map(|n| names.intern(&format!("Many{n}"))).collect();
        let again = names.intern("Many0");
        assert!(Arc::ptr_eq(&again, all.first().unwrap()));
        assert!(names.recent.len() <= Names::RECENT);
    }

    #[test]
    fn a_text_too_long_for_a_name_is_not_kept() {
        let text = "x".repeat(LONGEST_NAME + 1);
        assert!(!Arc::ptr_eq(&shared(&text), &shared(&text)));
    }
}
