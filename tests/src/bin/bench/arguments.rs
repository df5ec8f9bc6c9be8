//! What the programs that measure are told, of which each takes the options that it knows.

use std::fmt::Display;
use std::str::FromStr;

/// The arguments that are not taken yet.
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    pub(crate) fn given() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|argument| argument != name);
        self.0.len() < before
    }

    pub(crate) fn value<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.remove(at);
        assert!(at < self.0.len(), "`{name}` needs a value");
        let value = self.0.remove(at).parse();
        Some(value.unwrap_or_else(|error| panic!("`{name}`: {error}")))
    }

    pub(crate) fn only(&mut self) -> Only {
        Only(std::iter::from_fn(|| self.value("--only")).collect())
    }

    /// Refuses what is left, and names what there is.
    pub(crate) fn end(self, known: &str) {
        if let Some(other) = self.0.first() {
            panic!("unknown or repeated argument `{other}`; there are {known}");
        }
    }
}

/// The words of which a name is to contain one, if there are any.
pub(crate) struct Only(Vec<String>);

impl Only {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| name.contains(&**word))
    }
}
