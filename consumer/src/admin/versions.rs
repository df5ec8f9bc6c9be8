//! Versions of a consumer side by side: which one is active, and how an old one is removed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::error::AdminError;
use super::lag::{MOST_COUNTED, scope_of};
use super::locks::{LOCK_WAIT, left};
use super::operator::{Admin, consumer_of};
use super::options::{ActivateOptions, ForgetOptions, Target};
use super::status::sum;
use crate::backend::{
    Access, Backend, ConsumerId, Part, Row, SLICES, ViewError, drop_table, switch_view,
};
use crate::worker::timeouts::after;

impl<DB: Backend> Admin<DB> {
    /// Returns the [active](Self::activate) version of a consumer, whose read model queries should read;
    /// `None` if no worker has run it.
    ///
    /// Until a version is activated, the oldest one with a checkpoint is the active one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn active_version(&self, consumer: &str) -> Result<Option<u32>, AdminError> {
        let rows = self.rows().await?;
        let active = self
            .active_versions(&mut *self.read().await?, &rows)
            .await?;
        Ok(active.get(consumer).copied())
    }

    /// Makes a version of a consumer the active one.
    ///
    /// A consumer with `version = 2` catches up under its own checkpoint, into tables that it names
    /// after [`Context::version`](crate::Context::version). Both versions keep running, so the
    /// switch can be undone until the old one is [forgotten](Self::forget).
    ///
    /// The view of a [`ReadModel`](crate::ReadModel) is switched in the same transaction. Queries that
    /// name columns which both versions have, with the same types, do not fail meanwhile. Grants, comments
    /// and options of the view stay; on Postgres it is dropped and created again if columns disappear or
    /// change their type, which other views that depend on it prevent.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// use consumer::admin::{ActivateOptions, ForgetOptions, Target};
    /// use consumer::{Registered, Worker};
    ///
    /// // Version 1 is active; version 2 catches up.
    /// Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// let second = Registered::new(Users).version(2);
    /// Worker::builder(store.clone()).registered(second.clone()).build()?.run_once().await?;
    /// let admin = Worker::builder(store).registered(second).admin()?;
    /// assert_eq!(admin.active_version("users").await?, Some(1));
    ///
    /// let version = |version| Target::new("users").version(version);
    /// admin.activate(version(2), ActivateOptions::new()).await?;
    /// assert_eq!(admin.active_version("users").await?, Some(2));
    ///
    /// // When the old read model is no longer read:
    /// admin.forget(version(1), ForgetOptions::new()).await?;
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Without [`ActivateOptions::force`], [`AdminError::Behind`] if the version has not handled all
    /// events of its scope, and [`AdminError::HasParked`] if it has parked events, or if another version
    /// has some that none has handled. [`AdminError::Held`] if a worker's batch takes longer than 30 s.
    /// [`AdminError::View`] if the view cannot be switched, such as [`ViewError::InUse`] if a transaction has
    /// been reading it for 30 s.
    pub async fn activate(
        &self,
        consumer: impl Into<Target>,
        options: ActivateOptions,
    ) -> Result<(), AdminError> {
        let consumer = self.find(consumer.into()).await?;
        if !options.force {
            let mut tx = self.read().await?;
            self.refuse_unfinished(&mut tx, &consumer).await?;
        }
        let until = after(LOCK_WAIT);
        self.repeatedly(LOCK_WAIT, || self.try_activate(&consumer, options, until))
            .await
    }

    /// The rows are locked before the view, as when a version is [forgotten](Self::forget).
    async fn try_activate(
        &self,
        consumer: &ConsumerId,
        options: ActivateOptions,
        until: Instant,
    ) -> Result<(), AdminError> {
        let tables = self.tables().await?;
        let mut tx = self.try_locked(consumer, left(until)).await?;
        if !options.force {
            // Again: much may have changed while the lock was held by others.
            self.refuse_unfinished(&mut tx, consumer).await?;
        }
        let switched = switch_view::<DB>(&tables.views, &mut tx, consumer).await;
        switched.map_err(|error| view_error::<DB>(error, consumer))?;
        DB::activate(&tables.sql, &mut tx, consumer).await?;
        Ok(tx.commit().await?)
    }

    /// Removes the checkpoint of a detached consumer, or of a version that has been
    /// [replaced](Self::activate).
    ///
    /// The table of a [`ReadModel`](crate::ReadModel) is dropped, and the view with the last version.
    /// Tables that handlers write with SQL stay.
    ///
    /// Its handled events stay recorded, and its name, or this version of it, is retired: a process that
    /// still has the consumer [holds it back](crate::HeldBack) until [`start_new`](Self::start_new), so
    /// that it does not begin again by itself.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::{Invoices, Users};
    /// use consumer::Worker;
    /// use consumer::admin::{ConsumerState, ForgetOptions};
    ///
    /// Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// // The consumer `users` was removed from the program.
    /// let admin = Worker::builder(store).consumer(Invoices::default()).admin()?;
    /// assert_eq!(admin.status().await?.consumer("users").unwrap().state, ConsumerState::Detached);
    /// admin.forget("users", ForgetOptions::new()).await?;
    /// assert!(admin.status().await?.consumer("users").is_none());
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - [`AdminError::Active`]: it is the active version.
    /// - [`AdminError::InUse`]: it is in this program and would start from the beginning; see
    ///   [`ForgetOptions::force`].
    /// - [`AdminError::WouldDiscard`]: it has parked events; see [`ForgetOptions::discard_parked`].
    /// - [`AdminError::Held`]: a worker's batch takes longer than 30 s.
    /// - [`ViewError::InUse`]: a transaction has been reading its table for 30 s.
    pub async fn forget(
        &self,
        consumer: impl Into<Target>,
        options: ForgetOptions,
    ) -> Result<(), AdminError> {
        let consumer = self.find(consumer.into()).await?;
        self.refuse_in_use(&consumer, options).await?;
        let until = after(LOCK_WAIT);
        self.repeatedly(LOCK_WAIT, || self.try_forget(&consumer, options, until))
            .await
    }

    /// The rows are locked before the table, as in a worker's batch. They do not stay locked while a
    /// reader has the table: after a second, everything is tried again.
    async fn try_forget(
        &self,
        consumer: &ConsumerId,
        options: ForgetOptions,
        until: Instant,
    ) -> Result<(), AdminError> {
        let mut tx = self.try_locked(consumer, left(until)).await?;
        // Again: another version may have been activated while the lock was held by others.
        self.refuse_active(&mut tx, consumer).await?;
        let parked = DB::parked(&self.tables().await?.sql, &mut tx, consumer)
            .await?
            .len() as u64;
        if parked > 0 && !options.discard_parked {
            let consumer = consumer.clone();
            return Err(AdminError::WouldDiscard { consumer, parked });
        }
        let tables = self.tables().await?;
        let dropped = drop_table::<DB>(&tables.views, &mut tx, consumer).await;
        dropped.map_err(|error| view_error::<DB>(error, consumer))?;
        if !options.force {
            DB::retire(&tables.sql, &mut tx, consumer).await?;
        }
        DB::forget(&tables.sql, &mut tx, consumer).await?;
        Ok(tx.commit().await?)
    }

    /// Refuses to forget a consumer that is still in use.
    pub(super) async fn refuse_in_use(
        &self,
        consumer: &ConsumerId,
        options: ForgetOptions,
    ) -> Result<(), AdminError> {
        let is_elsewhere = self.elsewhere.iter().any(|name| **name == *consumer.name);
        if !options.force && (is_elsewhere || self.code_of(consumer).is_ok()) {
            let consumer = consumer.clone();
            return Err(AdminError::InUse { consumer });
        }
        let mut tx = self.read().await?;
        self.check_use(&mut tx, Access::Observe).await?;
        self.refuse_active(&mut tx, consumer).await
    }

    /// Refuses to forget the active one of several versions.
    async fn refuse_active(
        &self,
        tx: &mut DB::Connection,
        consumer: &ConsumerId,
    ) -> Result<(), AdminError> {
        let rows = DB::rows(&self.tables().await?.sql, tx).await?;
        let active = self.active_versions(tx, &rows).await?;
        if has_others(&rows, consumer) && active.get(&consumer.name) == Some(&consumer.version) {
            let consumer = consumer.clone();
            return Err(AdminError::Active { consumer });
        }
        Ok(())
    }

    /// Refuses to activate a version that lacks events, or beside which some would be left behind.
    async fn refuse_unfinished(
        &self,
        tx: &mut DB::Connection,
        consumer: &ConsumerId,
    ) -> Result<(), AdminError> {
        self.check_use(tx, Access::Observe).await?;
        let rows = DB::rows(&self.tables().await?.sql, tx).await?;
        let (own, others): (Vec<Row>, Vec<Row>) = rows
            .into_iter()
            .filter(|row| consumer_of(row).name == consumer.name)
            .partition(|row| consumer_of(row) == consumer);
        self.refuse_behind(tx, consumer, &own).await?;
        self.refuse_left_behind(tx, consumer, &others).await
    }

    async fn refuse_behind(
        &self,
        tx: &mut DB::Connection,
        consumer: &ConsumerId,
        rows: &[Row],
    ) -> Result<(), AdminError> {
        let tables = self.tables().await?;
        let position = rows.iter().map(|row| row.checkpoint.position).min();
        let scope = rows.first().map(|row| scope_of(&row.checkpoint.scope));
        let part = Part {
            after: position.unwrap_or_default(),
            up_to: tables.store.latest_global_position(tx).await?,
            scope: &scope.unwrap_or_default(),
        };
        let lag = DB::count(&tables.lag, tx, part, MOST_COUNTED).await?;
        if lag > 0 {
            return Err(AdminError::Behind {
                consumer: consumer.clone(),
                lag: u64::try_from(lag).unwrap_or(0),
            });
        }
        let parked = sum(rows, |row| row.parked);
        if parked > 0 {
            return Err(AdminError::HasParked {
                consumer: consumer.clone(),
                parked,
            });
        }
        Ok(())
    }

    /// Refuses a version beside which others have parked events that none has handled: no one would
    /// look at them again.
    async fn refuse_left_behind(
        &self,
        tx: &mut DB::Connection,
        consumer: &ConsumerId,
        others: &[Row],
    ) -> Result<(), AdminError> {
        let parking = others.iter().filter(|row| row.parked > 0);
        let mut others: Vec<&ConsumerId> = parking.map(consumer_of).collect();
        others.dedup();
        if others.is_empty() {
            return Ok(());
        }
        let tables = self.tables().await?;
        let slices = 0..i32::from(SLICES);
        let ledger = DB::ledger(&tables.checkpoints, tx, consumer, 0, slices).await?;
        for other in others {
            let mut parked = DB::parked(&tables.sql, tx, other).await?;
            parked.retain(|row| {
                !ledger.contains(&row.aggregate_type, &row.aggregate_id, row.position)
            });
            if !parked.is_empty() {
                return Err(AdminError::HasParked {
                    consumer: other.clone(),
                    parked: parked.len() as u64,
                });
            }
        }
        Ok(())
    }

    /// The active version of each consumer that has a checkpoint.
    pub(super) async fn active_versions(
        &self,
        tx: &mut DB::Connection,
        rows: &[Row],
    ) -> Result<HashMap<Arc<str>, u32>, AdminError> {
        let activated = DB::active(&self.tables().await?.sql, tx).await?;
        let mut active: HashMap<Arc<str>, u32> = HashMap::new();
        // Rows are ordered by version: the oldest is active unless another one was activated.
        for row in rows {
            let ConsumerId { name, version } = consumer_of(row).clone();
            active.entry(name).or_insert(version);
        }
        active.extend(activated.into_iter().map(|id| (id.name, id.version)));
        Ok(active)
    }
}

/// Converts the error of a change to a view.
fn view_error<DB: Backend>(error: ViewError, consumer: &ConsumerId) -> AdminError {
    match error {
        ViewError::Database(error) if DB::is_held(&error) => AdminError::Held {
            consumer: consumer.clone(),
        },
        error => AdminError::View(error),
    }
}

/// Whether a consumer has other versions.
pub(super) fn has_others(rows: &[Row], consumer: &ConsumerId) -> bool {
    let mut ids = rows.iter().map(consumer_of);
    ids.any(|other| other.name == consumer.name && other != consumer)
}
