//! What a consumer says of itself, apart from what it does.

use std::fmt;
use std::sync::Arc;

use sqlx::Database;

use crate::contract::{Consumer, ErasedConsumer, ScopedConsumer, Settings};

/// The place in the source where a consumer was declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The crate, as cargo knows it.
    pub package: &'static str,
    /// The module, as `module_path!()` gives it.
    pub module: &'static str,
    /// The file, relative to where the crate was compiled.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{} ({})",
            self.file, self.line, self.column, self.module
        )
    }
}

/// What a consumer says of itself: name, scope, settings, and where that was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Declaration {
    /// The unique name (R1).
    pub name: Arc<str>,
    /// The version; a new one rebuilds beside the old.
    pub version: u32,
    /// The group it belongs to, for processes that run only a part.
    pub group: Option<&'static str>,
    /// The aggregate types that it wants; empty for every event (R7, R8).
    pub scope: Vec<Arc<str>>,
    /// How it wants to be run.
    pub settings: Settings,
    /// Where it was declared; `None` when it was named by hand.
    pub site: Option<Site>,
}

impl Declaration {
    /// Declares a consumer by hand, with default settings and every event in its scope.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            version: 1,
            group: None,
            scope: Vec::new(),
            settings: Settings::DEFAULT,
            site: None,
        }
    }
}

/// A consumer together with its declaration, ready for a worker on the database `DB`.
pub struct Registered<DB: Database> {
    /// What it says of itself.
    pub declaration: Declaration,
    /// What it does.
    pub consumer: Arc<dyn ErasedConsumer<DB>>,
}

impl<DB: Database> Registered<DB> {
    /// Takes a consumer of every event.
    pub fn new(consumer: impl Consumer<DB>) -> Self {
        let mut declaration = Declaration::new(consumer.name());
        declaration.settings = consumer.settings();
        Self {
            declaration,
            consumer: Arc::new(consumer),
        }
    }

    /// Takes a consumer with a scope.
    pub fn scoped(consumer: impl ScopedConsumer<DB>) -> Self {
        let scope = consumer
            .aggregate_types()
            .iter()
            .map(|&kind| kind.into())
            .collect();
        let mut registered = Self::new(consumer);
        registered.declaration.scope = scope;
        registered
    }

    /// Sets the version, 1 unless said: the traits do not tell it, so that a consumer that is
    /// named by hand says it here.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.declaration.version = version;
        self
    }
}

impl<DB: Database> Clone for Registered<DB> {
    fn clone(&self) -> Self {
        Self {
            declaration: self.declaration.clone(),
            consumer: Arc::clone(&self.consumer),
        }
    }
}

impl<DB: Database> fmt::Debug for Registered<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.declaration.fmt(f)
    }
}
