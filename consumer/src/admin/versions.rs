//! Versions of a consumer beside each other: which one serves, and how an old one goes.

use std::collections::HashMap;
use std::sync::Arc;

use super::status::{scope_of, sum};
use super::{Admin, AdminError, PATIENCE, Target, of_row};
use crate::backend::Backend;
use crate::backend::{ConsumerId, Row};

impl<DB: Backend> Admin<DB> {
    /// The version of a consumer whose read model is to be read; `None` when no worker ever ran it.
    ///
    /// A consumer with `version = 2` catches up under a checkpoint of its own, into a table of its
    /// own that it names after [`Context::version`](crate::Context::version). Until somebody
    /// [activates](Self::activate) it, the oldest version with a checkpoint is the active one.
    ///
    /// See [`activate`](Self::activate) for an example.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn active_version(&self, consumer: &str) -> Result<Option<u32>, AdminError> {
        let rows = self.rows().await?;
        let active = self.active_versions(&rows).await?;
        Ok(active.get(consumer).copied())
    }

    /// Makes a version of a consumer the active one.
    ///
    /// Nothing else changes: both versions go on, so that the switch can be taken back, until the
    /// old one is [forgotten](Self::forget).
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// use consumer::admin::Target;
    /// use consumer::{Registered, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// // Version 1 serves; version 2 catches up beside it.
    /// let second = Registered::new(Users).version(2);
    /// Worker::builder(store.clone()).registered(second.clone()).build()?.run_once().await?;
    /// let admin = Worker::builder(store).registered(second).admin()?;
    /// assert_eq!(admin.active_version("users").await?, Some(1));
    ///
    /// admin.activate(Target::new("users").version(2), false).await?;
    /// assert_eq!(admin.active_version("users").await?, Some(2));
    ///
    /// // When nobody reads the old read model any more:
    /// admin.forget(Target::new("users").version(1), false).await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`AdminError::Behind`] when it has not handled all events of its scope, and
    /// [`AdminError::HasParked`] when it has set some aside, unless `force`.
    pub async fn activate(
        &self,
        consumer: impl Into<Target>,
        force: bool,
    ) -> Result<(), AdminError> {
        let of = self.find(consumer.into()).await?;
        if !force {
            self.refuse_behind(&of).await?;
        }
        let mut tx = self.begin(&of).await?;
        DB::activate(&self.sql, &mut tx, &of).await?;
        Ok(tx.commit().await?)
    }

    /// Removes the checkpoint of a consumer and what it has parked: of one that is detached, or of
    /// a version that another one has replaced. Its read model is left to you.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// use consumer::admin::ConsumerState;
    /// use consumer::{SqliteEventStore, Worker};
    ///
    /// # struct Orders;
    /// # impl Consumer<sqlx::Sqlite> for Orders {
    /// #     fn name(&self) -> &str { "orders" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// // The consumer `users` was taken out of the program.
    /// let admin = Worker::builder(store).consumer(Orders).admin()?;
    /// assert_eq!(admin.status().await?.consumer("users").unwrap().state, ConsumerState::Detached);
    /// admin.forget("users", false).await?;
    /// assert!(admin.status().await?.consumer("users").is_none());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// - [`AdminError::Active`]: it is the version that serves.
    /// - [`AdminError::InUse`]: it is in this program and would start from the beginning, unless
    ///   `force`.
    /// - [`AdminError::Held`]: a worker has it at hand.
    pub async fn forget(&self, consumer: impl Into<Target>, force: bool) -> Result<(), AdminError> {
        let of = self.find(consumer.into()).await?;
        self.refuse_in_use(&of, force).await?;
        let mut tx = self.locked(&of, PATIENCE).await?;
        DB::forget(&self.sql, &mut tx, &of).await?;
        Ok(tx.commit().await?)
    }

    /// Refuses to forget what is still in use.
    pub(super) async fn refuse_in_use(
        &self,
        of: &ConsumerId,
        force: bool,
    ) -> Result<(), AdminError> {
        let is_elsewhere = self.elsewhere.iter().any(|name| **name == *of.name);
        if !force && (is_elsewhere || self.code_of(of).is_ok()) {
            return Err(AdminError::InUse {
                consumer: Arc::clone(&of.name),
                version: of.version,
            });
        }
        let rows = self.rows().await?;
        let has_others = rows
            .iter()
            .any(|row| of_row(row).name == of.name && of_row(row) != *of);
        let active = self.active_versions(&rows).await?;
        if has_others && active.get(&of.name) == Some(&of.version) {
            return Err(AdminError::Active {
                consumer: Arc::clone(&of.name),
                version: of.version,
            });
        }
        Ok(())
    }

    async fn refuse_behind(&self, of: &ConsumerId) -> Result<(), AdminError> {
        let rows = self.rows().await?;
        let own: Vec<&Row> = rows.iter().filter(|row| of_row(row) == *of).collect();
        let position = own.iter().map(|row| row.checkpoint.position).min();
        let scope = own.first().map(|row| scope_of(&row.checkpoint.scope));
        let lag = self
            .lag(
                position.unwrap_or_default(),
                self.head().await?,
                &scope.unwrap_or_default(),
            )
            .await?;
        if lag.events > 0 {
            return Err(AdminError::Behind {
                consumer: Arc::clone(&of.name),
                version: of.version,
                lag: lag.events,
            });
        }
        let parked = sum(own.iter().copied(), |row| row.parked);
        if parked > 0 {
            return Err(AdminError::HasParked {
                consumer: Arc::clone(&of.name),
                version: of.version,
                parked,
            });
        }
        Ok(())
    }

    /// The active version of each consumer that has a checkpoint.
    pub(super) async fn active_versions(
        &self,
        rows: &[Row],
    ) -> Result<HashMap<Arc<str>, u32>, AdminError> {
        let mut connection = self.look().await?;
        let named = DB::active(&self.sql, &mut connection).await?;
        let mut active: HashMap<Arc<str>, u32> = HashMap::new();
        // In the order of versions: the oldest serves where nobody has said otherwise.
        for row in rows {
            let of = of_row(row);
            active.entry(of.name).or_insert(of.version);
        }
        for of in named {
            active.insert(of.name, of.version);
        }
        Ok(active)
    }
}
