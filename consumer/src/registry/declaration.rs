//! What a consumer says of itself, apart from what it does.

use std::fmt;
use std::sync::Arc;

use sqlx::Database;

use crate::contract::{Consumer, ErasedConsumer, ScopedConsumer, Settings};

/// The place in the source where a consumer was declared.
///
/// A report may point to it:
///
/// ```
/// use consumer::Site;
///
/// let site = Site { package: "shop", module: "shop::users", file: "src/users.rs", line: 12, column: 1 };
/// assert_eq!(site.to_string(), "src/users.rs:12:1 (shop::users)");
/// ```
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
    ///
    /// See [`Declaration`] for an example.
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
///
/// ```
/// # #[cfg(all(feature = "sqlite", feature = "worker"))]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
/// # struct Users;
/// # impl Consumer<sqlx::Sqlite> for Users {
/// #     fn name(&self) -> &str { "users" }
/// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
/// # }
/// use consumer::{Registered, SqliteEventStore, Worker};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// let users = Registered::new(Users).version(2);
/// assert_eq!((&*users.declaration.name, users.declaration.version), ("users", 2));
/// let worker = Worker::builder(store).registered(users).build()?;
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "sqlite", feature = "worker")))]
/// # fn main() {}
/// ```
pub struct Registered<DB: Database> {
    /// What it says of itself.
    pub declaration: Declaration,
    /// What it does.
    pub consumer: Arc<dyn ErasedConsumer<DB>>,
}

impl<DB: Database> Registered<DB> {
    /// Takes a consumer of every event.
    ///
    /// See [`Registered`] for an example.
    pub fn new(consumer: impl Consumer<DB>) -> Self {
        let mut declaration = Declaration::new(consumer.name());
        declaration.settings = consumer.settings();
        Self {
            declaration,
            consumer: Arc::new(consumer),
        }
    }

    /// Takes a consumer with a scope.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")] {
    /// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// # impl consumer::ScopedConsumer<sqlx::Sqlite> for Users {
    /// #     fn aggregate_types(&self) -> &[&str] { &["User"] }
    /// # }
    /// use consumer::Registered;
    ///
    /// let users = Registered::<sqlx::Sqlite>::scoped(Users);
    /// assert_eq!(&*users.declaration.scope[0], "User");
    /// # }
    /// ```
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
    ///
    /// See [`Registered`] for an example.
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
