//! Names of consumers: giving a checkpoint another one, and starting under one that is retired.

use std::collections::HashMap;
use std::time::Instant;

use sqlx::Transaction;

use super::error::AdminError;
use super::locks::{LOCK_WAIT, held, left};
use super::operator::{Admin, consumer_of, declared_id, held_or};
use super::options::Target;
use crate::backend::{
    Access, Backend, ConsumerId, HeldBack, Names, Renamed, Start, begin, lift, refuse_rename,
    rename,
};
use crate::contract::Formerly;
use crate::registry::check_name;
use crate::worker::poller::assignment::WorkerConsumer;
use crate::worker::timeouts::after;

impl<DB: Backend> Admin<DB> {
    /// Gives a consumer's checkpoint another name, with everything that belongs to it: all versions and
    /// segments, parked events, what it has handled, the active version and the tables of read models.
    ///
    /// A consumer that still has the old name, in any process, is held back from then on. The command
    /// can be given before or after the release with the new name is deployed, and
    /// `rename(new, old)` takes it back. Programs declare the former name instead, with the key
    /// `formerly`.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| { use consumer::__doc::Users;
    /// use consumer::Worker;
    /// use consumer::admin::Admin;
    ///
    /// Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// let admin = Admin::new(store);
    /// admin.rename("users", "accounts").await?;
    /// assert_eq!(admin.status().await?.consumer("accounts").unwrap().position, Some(1));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - [`AdminError::Unknown`]: there is no checkpoint of the old name.
    /// - [`AdminError::NameTaken`]: there is one of the new name.
    /// - [`AdminError::NameRetired`]: the new name was that of another consumer.
    /// - [`AdminError::Name`]: the new name cannot key a checkpoint.
    /// - [`AdminError::Held`]: a worker's batch takes longer than 30 s.
    pub async fn rename(
        &self,
        from: impl Into<String>,
        to: impl Into<String>,
    ) -> Result<(), AdminError> {
        let (from, to) = (from.into(), to.into());
        check_name(&to)?;
        let until = after(LOCK_WAIT);
        self.repeatedly(LOCK_WAIT, || self.try_rename(&from, &to, until))
            .await
    }

    /// The rows are locked before the names, as when a version is [forgotten](Self::forget).
    async fn try_rename(&self, from: &str, to: &str, until: Instant) -> Result<(), AdminError> {
        let tables = self.tables().await?;
        let consumer = first_version(from);
        let begun = begin(self.store.pool(), DB::BEGIN_SPLIT).await;
        let mut tx = begun.map_err(|error| held_or::<DB>(error, &consumer))?;
        self.check_use(&mut tx, Access::Operate).await?;
        let refused = refuse_rename::<DB>(&tables.names, &mut tx, from, to).await?;
        let renamed = match refused {
            Some(refused) => refused,
            None if self.lock_versions(&mut tx, from, until).await? => {
                let renamed = rename::<DB>(&tables.names, &mut tx, from, to).await;
                renamed.map_err(|error| held_or::<DB>(error, &consumer))?
            }
            None => {
                tx.commit().await?;
                return Err(held(&consumer));
            }
        };
        match renamed {
            Renamed::Done => Ok(tx.commit().await?),
            Renamed::Missing => {
                // The next statements need the connection.
                tx.rollback().await?;
                // Another process may have created it by now.
                self.find(from.into()).await?;
                Err(AdminError::Held { consumer })
            }
            Renamed::Taken => Err(AdminError::NameTaken {
                from: from.to_owned(),
                to: to.to_owned(),
            }),
            Renamed::Retired(held_back) => Err(AdminError::NameRetired { held_back }),
            Renamed::Busy => Err(AdminError::Held { consumer }),
        }
    }

    /// Locks the rows of all versions of a name. Returns false if a handler works on one without a claim, or if one
    /// is gone; then the caller has to commit.
    async fn lock_versions(
        &self,
        tx: &mut Transaction<'_, DB>,
        name: &str,
        until: Instant,
    ) -> Result<bool, AdminError> {
        let rows = DB::rows(&self.tables().await?.sql, tx).await?;
        let mut versions: Vec<&ConsumerId> = rows.iter().map(consumer_of).collect();
        versions.retain(|id| *id.name == *name);
        versions.dedup();
        for id in versions {
            if self.must_wait(tx, id).await? {
                return Ok(false);
            }
            match self.lock(tx, id, left(until)).await {
                Err(AdminError::Unknown { .. }) => return Ok(false),
                locked => drop(locked?),
            }
        }
        Ok(true)
    }

    /// Starts a consumer that is [held back](crate::HeldBack) with a checkpoint of its own, at its
    /// `start_from`.
    ///
    /// Its name may be that of a renamed or forgotten consumer, or it may be a renamed consumer. Workers that hold it back start it within
    /// [`snapshot_interval`](crate::WorkerBuilder::snapshot_interval). What a forgotten consumer of the
    /// name has handled stays a replay ([`Context::is_replay`](crate::Context::is_replay)).
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| { use consumer::__doc::Users;
    /// use consumer::Worker;
    /// use consumer::admin::ForgetOptions;
    ///
    /// let worker = || Worker::builder(store.clone()).consumer(Users);
    /// worker().build()?.run_once().await?;
    /// consumer::admin::Admin::new(store.clone()).forget("users", ForgetOptions::new()).await?;
    /// let report = worker().build()?.run_once().await?;
    /// assert_eq!(report.consumer("users").unwrap().state.name(), "held_back");
    ///
    /// worker().admin()?.start_new("users").await?;
    /// let report = worker().build()?.run_once().await?;
    /// assert_eq!(report.consumer("users").unwrap().position, Some(1));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - [`AdminError::NotHeldBack`]: it has a checkpoint.
    /// - [`AdminError::NoCode`]: its name is not retired, so that it can only be started in a program
    ///   that contains it.
    pub async fn start_new(&self, consumer: impl Into<Target>) -> Result<(), AdminError> {
        let target = consumer.into();
        self.refuse_checkpoint(&target).await?;
        let consumer = target.id();
        let mut tx = self.write(&consumer).await?;
        let statements = &self.tables().await?.names;
        let is_lifted = lift::<DB>(statements, &mut tx, &target.name, target.version).await?;
        tx.commit().await?;
        let is_started = self.start_declared(&target).await?;
        if is_lifted || is_started {
            Ok(())
        } else {
            Err(AdminError::NoCode { consumer })
        }
    }

    /// Refuses to start what has a checkpoint.
    pub(super) async fn refuse_checkpoint(&self, target: &Target) -> Result<(), AdminError> {
        let rows = self.rows().await?;
        let mut consumers = rows.iter().map(consumer_of);
        match consumers.find(|consumer| target.means(consumer)) {
            Some(consumer) => Err(AdminError::NotHeldBack {
                consumer: consumer.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Whether a name was that of a renamed or forgotten consumer.
    #[cfg(feature = "cli")]
    pub(super) async fn is_retired(&self, name: &str) -> Result<bool, AdminError> {
        let mut tx = self.read().await?;
        let names = Names::read::<DB>(&self.tables().await?.names, &mut tx).await?;
        Ok(names.is_retired(name))
    }

    /// Creates the checkpoints of the consumers in this program that a command names; returns whether
    /// there are any.
    async fn start_declared(&self, target: &Target) -> Result<bool, AdminError> {
        let mut consumers = Vec::new();
        for code in &self.code {
            if target.means(&declared_id(&code.declaration)) {
                let mut consumer = WorkerConsumer::new(code.clone());
                consumer.enrolment.formerly = Formerly::None;
                consumers.push(consumer);
            }
        }
        let is_declared = !consumers.is_empty();
        self.enroll(consumers, &[]).await?;
        Ok(is_declared)
    }

    /// The consumers of this program that are held back.
    pub(super) async fn held_back(&self) -> Result<HashMap<ConsumerId, HeldBack>, AdminError> {
        let starts = self.starts().await?.into_iter();
        let held_back = starts.filter_map(|(consumer, start)| match start {
            Start::Not(held_back) => Some((consumer, held_back)),
            Start::Run | Start::TakeOver(_) => None,
        });
        Ok(held_back.collect())
    }

    /// The former name whose checkpoint becomes that of a consumer of this program when a worker starts.
    pub(super) async fn takes_over(
        &self,
        consumer: &ConsumerId,
    ) -> Result<Option<String>, AdminError> {
        let mut starts = self.starts().await?.into_iter();
        Ok(starts.find_map(|(one, start)| match start {
            Start::TakeOver(former) if one == *consumer => Some(former),
            _ => None,
        }))
    }

    /// How the consumers of this program start.
    async fn starts(&self) -> Result<Vec<(ConsumerId, Start)>, AdminError> {
        let mut tx = self.read().await?;
        let names = Names::read::<DB>(&self.tables().await?.names, &mut tx).await?;
        let declared = self.declared();
        let starts = self.code.iter().map(|code| {
            let enrolment = WorkerConsumer::new(code.clone()).enrolment;
            let start = names.start(&enrolment, &declared);
            (enrolment.consumer, start)
        });
        Ok(starts.collect())
    }
}

fn first_version(name: &str) -> ConsumerId {
    ConsumerId {
        name: name.into(),
        version: 1,
    }
}
