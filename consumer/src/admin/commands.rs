//! Commands that change nothing but the checkpoint rows: pause, resume, accept a scope, merge.

use super::error::AdminError;
use super::locks::LOCK_WAIT;
use super::operator::Admin;
use super::options::Target;
use crate::backend::{Backend, ConsumerId, State};
use crate::worker::merge_segments;
use crate::worker::poller::assignment::scope_text;

impl<DB: Backend> Admin<DB> {
    /// Pauses a consumer in all processes until it is [resumed](Self::resume).
    ///
    /// The current batch finishes first. A consumer of this program that has never run gets its
    /// checkpoint, so that it does not start.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// use consumer::Worker;
    /// use consumer::admin::ConsumerState;
    ///
    /// let admin = Worker::builder(store).consumer(Users).admin()?;
    /// admin.pause("users").await?;
    /// assert_eq!(admin.status().await?.consumers[0].state, ConsumerState::Paused);
    ///
    /// admin.resume("users").await?;
    /// assert_eq!(admin.status().await?.consumers[0].state, ConsumerState::Running);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If there is no such checkpoint, or the current batch takes longer than 30 s.
    pub async fn pause(&self, consumer: impl Into<Target>) -> Result<(), AdminError> {
        let consumer = self.find_or_enroll(consumer.into()).await?;
        self.set_state(&consumer, State::Paused).await
    }

    /// Resumes a paused or stopped consumer, which gets all its attempts again.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| { use consumer::__doc::Invoices;
    /// use consumer::Worker;
    ///
    /// let admin = Worker::builder(store.clone()).consumer(Invoices::default()).admin()?;
    /// Worker::builder(store).consumer(Invoices::default()).build()?.run_once().await?;
    /// let status = admin.status().await?;
    /// let failing = status.consumers[0].failing.as_ref().unwrap();
    /// assert_eq!((failing.position, failing.error.as_str()), (Some(1), "no such tariff"));
    ///
    /// // After the tariff has been added:
    /// admin.resume("invoices").await?;
    /// assert_eq!(admin.status().await?.consumers[0].failing, None);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If there is no such checkpoint, or the current batch takes longer than 30 s.
    pub async fn resume(&self, consumer: impl Into<Target>) -> Result<(), AdminError> {
        let consumer = self.find(consumer.into()).await?;
        self.set_state(&consumer, State::Running).await
    }

    /// Records the scope that the code has as the scope of the checkpoint.
    ///
    /// Events of types that are new in the scope are handled from the checkpoint on; a rebuild
    /// handles all of them.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// use consumer::{Registered, Worker};
    ///
    /// let mut users = Registered::new(Users);
    /// users.declaration.scope = vec!["User".into()];
    /// Worker::builder(store.clone()).registered(users.clone()).build()?.run_once().await?;
    ///
    /// // The next release adds a type.
    /// users.declaration.scope.push("Order".into());
    /// let admin = Worker::builder(store).registered(users).admin()?;
    /// assert_eq!(admin.status().await?.consumers[0].state.name(), "scope_changed");
    /// admin.accept_scope("users").await?;
    /// assert_eq!(admin.status().await?.consumers[0].scope, ["Order", "User"]);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If there is no such checkpoint, its code is not in this program, or the current batch takes
    /// longer than 30 s.
    pub async fn accept_scope(&self, consumer: impl Into<Target>) -> Result<(), AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let scope = scope_text(&self.code_of(&consumer)?.declaration.scope);
        let mut tx = self.locked(&consumer, LOCK_WAIT).await?;
        DB::set_scope(&self.tables().await?.sql, &mut tx, &consumer, &scope).await?;
        Ok(tx.commit().await?)
    }

    /// Merges a consumer's segments down to a number, and returns how many remain; see
    /// [`merge_segments`].
    ///
    /// Workers must run the consumer meanwhile, set to at most that number. Dropping the future
    /// stops the merge; segments that are already merged stay merged.
    ///
    /// ```no_run
    /// # consumer::__doc::run(async |store| {
    /// let admin = consumer::admin::Admin::new(store);
    /// // The workers have been restarted with `segments = 1`; the consumer still has four.
    /// let segments = admin.merge_segments("users", 1).await?;
    /// assert_eq!(segments, 1);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If there is no such checkpoint, or the database fails.
    pub async fn merge_segments(
        &self,
        consumer: impl Into<Target>,
        segments: u32,
    ) -> Result<usize, AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let store = &self.tables().await?.store;
        merge_segments(store, &consumer.name, consumer.version, segments).await?;
        Ok(self.rows_of(&consumer).await?.len())
    }

    async fn set_state(&self, consumer: &ConsumerId, state: State) -> Result<(), AdminError> {
        let mut tx = self.locked(consumer, LOCK_WAIT).await?;
        DB::set_state(&self.tables().await?.sql, &mut tx, consumer, state).await?;
        Ok(tx.commit().await?)
    }
}
