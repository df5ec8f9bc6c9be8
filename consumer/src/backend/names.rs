//! One allocation for each type name, however often it is read.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;

/// More names than a program can sensibly have; beyond it, a name costs an allocation each time.
const MOST_NAMES: usize = 10_000;

/// A longer text is not a name, and many of them would fill the memory of the process.
const LONGEST_NAME: usize = 256;

static NAMES: LazyLock<RwLock<HashSet<Arc<str>>>> = LazyLock::new(RwLock::default);

/// Hands out shared names while the rows of one read are decoded.
///
/// The last few are kept here, so that the process-wide table is not locked for each row.
#[derive(Default)]
pub struct Names {
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
    let known = NAMES.read().get(name).cloned();
    known.unwrap_or_else(|| insert(name))
}

fn insert(name: &str) -> Arc<str> {
    let mut names = NAMES.write();
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
    use std::sync::Arc;

    use super::{LONGEST_NAME, Names, shared};

    #[test]
    fn a_name_is_allocated_once_for_all_reads() {
        let first = Names::default().intern("Interned");
        let second = Names::default().intern("Interned");
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn more_names_than_are_kept_here_still_share_an_allocation() {
        let mut names = Names::default();
        let all: Vec<_> = (0..50).map(|n| names.intern(&format!("Many{n}"))).collect();
        let again = names.intern("Many0");
        assert!(Arc::ptr_eq(&again, all.first().unwrap()));
        assert!(names.recent.len() <= Names::RECENT);
    }

    #[test]
    fn a_text_too_long_for_a_name_is_not_shared() {
        let text = "x".repeat(LONGEST_NAME + 1);
        assert!(!Arc::ptr_eq(&shared(&text), &shared(&text)));
    }
}
