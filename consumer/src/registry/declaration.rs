//! The declaration of a consumer: everything about it but its handlers.

use std::fmt;
use std::sync::Arc;

use sqlx::Database;

use crate::contract::read_model::Table;
use crate::contract::{Consumer, ErasedConsumer, Formerly, ScopedConsumer, Settings};

/// The place in the source where a consumer is declared.
///
/// ```
/// use consumer::Site;
///
/// let site = Site { package: "shop", module: "shop::users", file: "src/users.rs", line: 12, column: 1 };
/// assert_eq!(site.to_string(), "src/users.rs:12:1 (shop::users)");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The Cargo package.
    pub package: &'static str,
    /// The module, as `module_path!()` returns it.
    pub module: &'static str,
    /// The file, relative to the directory in which the crate was compiled.
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

/// The name, scope and settings of a consumer, and where it is declared.
///
/// ```
/// use consumer::Declaration;
///
/// let mut declaration = Declaration::new("audit_log");
/// declaration.scope = vec!["User".into(), "Order".into()];
/// assert_eq!(declaration.version, 1);
/// assert!(declaration.site.is_none());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Declaration {
    /// The unique name (R1).
    pub name: Arc<str>,
    /// The version; a new version is built beside the old one.
    pub version: u32,
    /// The group, for processes that run only some of a program's consumers.
    pub group: Option<&'static str>,
    /// The name that it had before.
    pub formerly: Formerly,
    /// The aggregate types that it receives events of; empty for every event (R7, R8).
    pub scope: Vec<Arc<str>>,
    /// How to run it.
    pub settings: Settings,
    /// The table that the library keeps for it, if it has a read model.
    pub read_model: Option<&'static Table>,
    /// Where it is declared; `None` for a consumer that was added by hand.
    pub site: Option<Site>,
}

impl Declaration {
    /// Declares a consumer of every event, with default settings.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            version: 1,
            group: None,
            formerly: Formerly::Unstated,
            scope: Vec::new(),
            settings: Settings::DEFAULT,
            read_model: None,
            site: None,
        }
    }
}

/// A consumer and its declaration, ready for a worker on the database `DB`.
///
/// ```
/// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
/// use consumer::{Registered, Worker};
///
/// let users = Registered::new(Users).version(2);
/// assert_eq!((&*users.declaration.name, users.declaration.version), ("users", 2));
/// let worker = Worker::builder(store).registered(users).build()?;
/// # Ok(()) }).unwrap();
/// ```
pub struct Registered<DB: Database> {
    /// Its name, scope and settings.
    pub declaration: Declaration,
    /// The consumer.
    pub consumer: Arc<dyn ErasedConsumer<DB>>,
}

impl<DB: Database> Registered<DB> {
    /// Takes a consumer with the scope that [`Consumer::scope`] returns.
    pub fn new(consumer: impl Consumer<DB>) -> Self {
        let mut declaration = Declaration::new(consumer.name());
        declaration.scope = shared(consumer.scope());
        declaration.settings = consumer.settings();
        declaration.formerly = consumer.formerly();
        declaration.read_model = consumer.read_model();
        Self {
            declaration,
            consumer: Arc::new(consumer),
        }
    }

    /// Takes a consumer with the scope that [`ScopedConsumer::aggregate_types`] returns.
    ///
    /// It differs from [`new`](Self::new) only for a consumer that does not return its scope from
    /// [`Consumer::scope`].
    pub fn scoped(consumer: impl ScopedConsumer<DB>) -> Self {
        let scope = shared(consumer.aggregate_types());
        let mut registered = Self::new(consumer);
        registered.declaration.scope = scope;
        registered
    }

    /// Sets the version, which is 1 by default and not part of [`Consumer`].
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.declaration.version = version;
        self
    }
}

fn shared(scope: &[&str]) -> Vec<Arc<str>> {
    scope.iter().copied().map(Arc::from).collect()
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

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use sqlx::{Database, Sqlite};

    use super::Registered;
    use crate::contract::{Consumer, Context, HandlerError, PersistedEvent, ScopedConsumer};

    struct Orders;

    impl<DB: Database> Consumer<DB> for Orders {
        fn name(&self) -> &str {
            "orders"
        }

        fn scope(&self) -> &[&str] {
            ScopedConsumer::<DB>::aggregate_types(self)
        }

        async fn handle(
            &self,
            _: &Context,
            _: &mut DB::Connection,
            _: &PersistedEvent,
        ) -> Result<(), HandlerError> {
            Ok(())
        }
    }

    impl<DB: Database> ScopedConsumer<DB> for Orders {
        fn aggregate_types(&self) -> &[&str] {
            &["Order", "Invoice"]
        }
    }

    #[test]
    fn r7_a_consumer_is_registered_with_its_own_scope() {
        let scope = Registered::<Sqlite>::new(Orders).declaration.scope;
        assert_eq!(scope, ["Order".into(), "Invoice".into()]);
    }
}
