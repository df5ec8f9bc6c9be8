//! What the command line asks before it asks somebody: which consumer is meant, and whether the verb
//! would be refused anyway.

use super::status::sum;
use super::{Admin, AdminError, ConsumerState, RebuildOptions, Target, of_row};
use crate::backend::Backend;
use crate::backend::ConsumerId;

/// One version of a consumer, chosen.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    of: ConsumerId,
    /// What to call it: with its version, where that is not the only one.
    pub(crate) label: String,
}

impl Choice {
    /// What to give the verbs.
    pub(crate) fn target(&self) -> Target {
        Target::new(&*self.of.name).version(self.version())
    }

    pub(crate) fn version(&self) -> u32 {
        self.of.version
    }
}

impl<DB: Backend> Admin<DB> {
    /// Chooses what is meant.
    pub(crate) async fn choose(&self, target: Target) -> Result<Choice, AdminError> {
        let of = self.find(target).await?;
        self.choice(of).await
    }

    /// Chooses what is meant, and gives it a checkpoint if it has none; says whether it had none.
    pub(crate) async fn choose_or_enroll(
        &self,
        target: Target,
    ) -> Result<(Choice, bool), AdminError> {
        let is_new = matches!(
            self.find(target.clone()).await,
            Err(AdminError::NeverRan { .. })
        );
        let of = self.find_or_enroll(target).await?;
        Ok((self.choice(of).await?, is_new))
    }

    async fn choice(&self, of: ConsumerId) -> Result<Choice, AdminError> {
        let rows = self.rows().await?;
        let is_other = |other: &ConsumerId| other.name == of.name && *other != of;
        let has_others = rows.iter().map(of_row).any(|other| is_other(&other));
        let version = of.version;
        let label = if has_others || version != 1 {
            format!("{} v{version}", of.name)
        } else {
            of.name.to_string()
        };
        Ok(Choice { of, label })
    }

    /// Whether this program has its code.
    pub(crate) fn has_code(&self, choice: &Choice) -> bool {
        self.code_of(&choice.of).is_ok()
    }

    /// Refuses what [`forget`](Self::forget) would refuse.
    pub(crate) async fn may_forget(&self, choice: &Choice, force: bool) -> Result<(), AdminError> {
        self.refuse_in_use(&choice.of, force).await
    }

    /// Refuses what [`rebuild`](Self::rebuild) would refuse, apart from what only the lock tells;
    /// otherwise says how many parked events it gives up.
    pub(crate) async fn may_rebuild(
        &self,
        choice: &Choice,
        options: RebuildOptions,
    ) -> Result<u64, AdminError> {
        self.reset_of(&choice.of, options)?;
        let rows = self.rows().await?;
        let own = rows.iter().filter(|row| of_row(row) == choice.of);
        let parked = sum(own, |row| row.parked);
        if parked > 0 && !options.discard_parked {
            return Err(AdminError::WouldDiscard {
                consumer: choice.of.name.clone(),
                parked,
            });
        }
        Ok(parked)
    }

    /// How it stands, and its last error; `None` when its checkpoint is gone.
    pub(crate) async fn state_of_one(
        &self,
        choice: &Choice,
    ) -> Result<Option<(ConsumerState, String)>, AdminError> {
        let mut own = self.rows().await?;
        own.retain(|row| of_row(row) == choice.of);
        let code = self.code_of(&choice.of).ok();
        Ok(super::status::worst(&own).map(|row| {
            let error = row.checkpoint.error.clone().unwrap_or_default();
            (self.state_of(row, &own, code), error)
        }))
    }

    /// Whether its checkpoint was reached with another scope than the code has, also when it is
    /// stopped or paused.
    pub(crate) async fn has_other_scope(&self, choice: &Choice) -> Result<bool, AdminError> {
        let Ok(code) = self.code_of(&choice.of) else {
            return Ok(false);
        };
        let rows = self.rows().await?;
        let mut own = rows.iter().filter(|row| of_row(row) == choice.of);
        Ok(own.any(|row| super::status::has_other_scope(row, code)))
    }

    /// Whether another version serves.
    pub(crate) async fn is_beside(&self, choice: &Choice) -> Result<bool, AdminError> {
        let active = self.active_version(&choice.of.name).await?;
        Ok(active.is_some_and(|active| active != choice.version()))
    }
}
