//! Why a command failed, and how the process exits then.

use super::exit::Exit;
use crate::admin::{AdminError, ConsumerId};
use crate::backend::{StoreError, ViewError};
use crate::contract::chain;
use crate::worker::{BuildError, WorkerError};

/// The result of a command.
pub(super) type Outcome = Result<Exit, CommandError>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Build(Box<BuildError>),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[cfg(feature = "dashboard")]
    #[error(transparent)]
    Serve(#[from] crate::dashboard::serve::ServeError),
    #[cfg(not(feature = "dashboard"))]
    #[error(
        "this program has no dashboard; build it with the feature `dashboard` of the crate `consumer`, beside `cli`"
    )]
    NoDashboard,
    #[error("{0}")]
    Usage(String),
    #[error(
        "consumer `{0}` has not handled any event yet, so there is nothing to rebuild; `run` starts it"
    )]
    NothingToRebuild(ConsumerId),
    #[error("cancelled; nothing was changed")]
    Declined,
}

impl From<BuildError> for CommandError {
    fn from(error: BuildError) -> Self {
        Self::Build(Box::new(error))
    }
}

impl CommandError {
    /// The error with its causes, and the command that helps.
    pub(super) fn message(&self) -> String {
        let message = chain(self).to_string();
        match self.advice() {
            Some(advice) => format!("{message}; {advice}"),
            None => message,
        }
    }

    /// What helps an operator, where the message of the library is for programs.
    fn advice(&self) -> Option<&'static str> {
        let (Self::Admin(AdminError::Store(store) | AdminError::Worker(WorkerError::Store(store)))
        | Self::Worker(WorkerError::Store(store))
        | Self::Store(store)) = self
        else {
            return None;
        };
        match store {
            StoreError::NotMigrated { .. } => Some("on the command line, run `migrate`"),
            StoreError::Database(error) if is_unreachable(error) => {
                Some("check that the database runs, can be reached and has a free connection")
            }
            _ => None,
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Declined | Self::NothingToRebuild(_) => Exit::Refused,
            Self::Usage(_) => Exit::Usage,
            #[cfg(not(feature = "dashboard"))]
            Self::NoDashboard => Exit::Usage,
            #[cfg(feature = "dashboard")]
            Self::Serve(error) if error.is_refused() => Exit::Refused,
            Self::Admin(error) => exit_of(error),
            Self::Worker(error) => exit_of_worker(error),
            Self::Store(error) => exit_of_store(error),
            _ => Exit::Failed,
        }
    }
}

/// Whether a statement failed because there was no connection for it.
fn is_unreachable(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) | sqlx::Error::Tls(_)
    )
}

fn exit_of(error: &AdminError) -> Exit {
    match error {
        AdminError::Unknown { .. }
        | AdminError::UnknownVersion { .. }
        | AdminError::SeveralVersions { .. }
        | AdminError::Name(_)
        | AdminError::NotParked { .. }
        | AdminError::NotStoppedAt { .. } => Exit::Usage,
        AdminError::Held { .. }
        | AdminError::View(ViewError::InUse { .. })
        | AdminError::NeverRan { .. }
        | AdminError::NotTakenOver { .. }
        | AdminError::InUse { .. }
        | AdminError::Active { .. }
        | AdminError::Behind { .. }
        | AdminError::HasParked { .. }
        | AdminError::HeldBack { .. }
        | AdminError::NotHeldBack { .. }
        | AdminError::NameTaken { .. }
        | AdminError::NameRetired { .. }
        | AdminError::WouldDiscard { .. }
        | AdminError::NotNext { .. }
        | AdminError::NotInLog { .. }
        | AdminError::NoReset { .. }
        | AdminError::NoCode { .. } => Exit::Refused,
        AdminError::Retry { .. } => Exit::Unwell,
        AdminError::Worker(error) => exit_of_worker(error),
        AdminError::Store(error) => exit_of_store(error),
        _ => Exit::Failed,
    }
}

fn exit_of_worker(error: &WorkerError) -> Exit {
    match error {
        WorkerError::UnknownCheckpoint { .. }
        | WorkerError::NotRunning { .. }
        | WorkerError::WaitingForRelease { .. } => Exit::Refused,
        WorkerError::Store(error) => exit_of_store(error),
        _ => Exit::Failed,
    }
}

fn exit_of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::NoEvent { .. } | StoreError::UnfitRedaction { .. } => Exit::Usage,
        StoreError::ReadOnlyLog { .. } => Exit::Refused,
        _ => Exit::Failed,
    }
}
