//! Checks of the command line before it asks for confirmation.

use super::error::AdminError;
use super::lag::scope_of;
use super::operator::{Admin, consumer_of, declared_id};
use super::options::{ForgetOptions, RebuildOptions, Target};
use super::status::{changed_scope, sum};
use super::versions::has_others;
use crate::backend::{Backend, ConsumerId, Part, recorded_tables};
use crate::registry::Registered;
use crate::worker::ConsumerState;

impl<DB: Backend> Admin<DB> {
    /// Whether this program contains the consumer's code.
    pub(crate) fn has_code(&self, consumer: &ConsumerId) -> bool {
        self.code_of(consumer).is_ok()
    }

    /// Refuses what [`forget`](Self::forget) would refuse; otherwise returns how many parked events
    /// it discards.
    pub(crate) async fn may_forget(
        &self,
        consumer: &ConsumerId,
        options: ForgetOptions,
    ) -> Result<u64, AdminError> {
        self.refuse_in_use(consumer, options).await?;
        self.may_discard(consumer, options.discard_parked).await
    }

    /// Refuses what [`rebuild`](Self::rebuild) would refuse, except for what only the lock tells;
    /// otherwise returns how many parked events it discards.
    pub(crate) async fn may_rebuild(
        &self,
        consumer: &ConsumerId,
        options: RebuildOptions,
    ) -> Result<u64, AdminError> {
        self.reset_of(consumer, options)?;
        self.may_discard(consumer, options.discard_parked).await
    }

    async fn may_discard(&self, consumer: &ConsumerId, is_wanted: bool) -> Result<u64, AdminError> {
        let parked = sum(&self.rows_of(consumer).await?, |row| row.parked);
        if parked > 0 && !is_wanted {
            let consumer = consumer.clone();
            return Err(AdminError::WouldDiscard { consumer, parked });
        }
        Ok(parked)
    }

    /// Finds the consumer to rebuild. A version that has never run is enrolled if another version
    /// has run, beside which it catches up; the second value says whether it was.
    pub(crate) async fn find_to_rebuild(
        &self,
        target: Target,
    ) -> Result<(ConsumerId, bool), AdminError> {
        let consumer = match self.find(target.clone()).await {
            Err(AdminError::NeverRan { consumer }) => consumer,
            found => return Ok((found?, false)),
        };
        if !has_others(&self.rows().await?, &consumer) {
            return Err(AdminError::NeverRan { consumer });
        }
        Ok((self.find_or_enroll(target).await?, true))
    }

    /// Whether the consumer has handled an event, or has none to handle.
    pub(crate) async fn has_begun(&self, consumer: &ConsumerId) -> Result<bool, AdminError> {
        let (position, replay_to) = self.positions(consumer).await?;
        if position.max(replay_to) > 0 {
            return Ok(true);
        }
        let rows = self.rows_of(consumer).await?;
        let scope = rows.first().map(|row| scope_of(&row.checkpoint.scope));
        let part = Part {
            after: 0,
            up_to: self.head().await?,
            scope: &scope.unwrap_or_default(),
        };
        Ok(self.count(part, 1).await? == 0)
    }

    /// Refuses what [`skip`](Self::skip) would refuse.
    pub(crate) async fn may_skip(
        &self,
        consumer: &ConsumerId,
        position: i64,
    ) -> Result<(), AdminError> {
        let mut tx = self.read().await?;
        self.stopped_at(&mut tx, consumer, position).await?;
        tx.commit().await?;
        self.refuse_above(position).await
    }

    /// Refuses what [`start_new`](Self::start_new) would refuse.
    pub(crate) async fn may_start_new(&self, target: &Target) -> Result<(), AdminError> {
        self.refuse_checkpoint(target).await?;
        let declared = |one: &Registered<DB>| target.means(&declared_id(&one.declaration));
        if self.code.iter().any(declared) || self.is_retired(&target.name).await? {
            return Ok(());
        }
        let consumer = target.id();
        Err(AdminError::NoCode { consumer })
    }

    /// The table of a version, unless the library does not maintain it.
    pub(crate) async fn table_of(
        &self,
        consumer: &ConsumerId,
    ) -> Result<Option<String>, AdminError> {
        let mut tx = self.read().await?;
        let versions =
            recorded_tables::<DB>(&self.tables().await?.views, &mut tx, &consumer.name).await?;
        let table = versions
            .into_iter()
            .find(|version| version.consumer == *consumer);
        Ok(table.map(|version| version.table.to_string()))
    }

    /// The consumers that have parked events.
    pub(crate) async fn with_parked(&self) -> Result<Vec<ConsumerId>, AdminError> {
        let rows = self.rows().await?;
        let parked = rows.iter().filter(|row| row.parked > 0);
        let mut consumers: Vec<ConsumerId> = parked.map(consumer_of).cloned().collect();
        consumers.dedup();
        Ok(consumers)
    }

    /// The state of one consumer.
    pub(crate) async fn state_of_one(
        &self,
        consumer: &ConsumerId,
    ) -> Result<ConsumerState, AdminError> {
        Ok(self.state_of(&self.rows_of(consumer).await?))
    }

    /// Whether the consumer's checkpoint was reached with another scope than the code has, even if
    /// it is stopped or paused.
    pub(crate) async fn has_other_scope(&self, consumer: &ConsumerId) -> Result<bool, AdminError> {
        let Ok(code) = self.code_of(consumer) else {
            return Ok(false);
        };
        let rows = self.rows_of(consumer).await?;
        let mut changes = rows.iter().map(|row| changed_scope(&row.checkpoint, code));
        Ok(changes.any(|change| change.is_some()))
    }

    /// Whether another version is active.
    pub(crate) async fn is_inactive(&self, consumer: &ConsumerId) -> Result<bool, AdminError> {
        let active = self.active_version(&consumer.name).await?;
        Ok(active.is_some_and(|active| active != consumer.version))
    }
}
