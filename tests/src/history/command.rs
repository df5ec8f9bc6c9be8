//! The commands of an operator, each of which a history may give.

/// A method of [`Admin`](consumer::admin::Admin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Pauses a consumer.
    Pause,
    /// Resumes a consumer.
    Resume,
    /// Takes the scope of the code.
    AcceptScope,
    /// Merges the segments of a consumer into one while a worker runs it.
    MergeSegments,
    /// Rebuilds a consumer, some of them discarding its parked events or without its `reset`.
    Rebuild,
    /// Tries a consumer's parked events again, all or those of one aggregate.
    RetryParked,
    /// Skips one parked event of a consumer.
    SkipParked,
    /// Parks the event at which a consumer has stopped.
    Park,
    /// Skips the event at which a consumer has stopped.
    Skip,
    /// Makes the newest version of a consumer the active one.
    Activate,
    /// Forgets the oldest version of a consumer, some of them with its parked events.
    Forget,
    /// Gives a consumer another name, and its own again.
    Rename,
    /// Forgets the newest version of a consumer, and starts it anew.
    StartNew,
    /// Gives a broken event another payload.
    Redact,
    /// Looks at the progress of a rebuild.
    WatchRebuild,
    /// Lists what a consumer has parked.
    Parked,
    /// Looks at one parked event.
    ParkedEvent,
    /// Asks which version is active.
    ActiveVersion,
    /// Looks at all consumers.
    Status,
    /// Looks at all consumers again.
    StatusSince,
    /// Looks at the frontier.
    Frontier,
    /// Lists the events that a consumer's code does not know.
    UnknownEvents,
    /// Asks what became of an event.
    Explain,
}

impl Command {
    /// All commands, those first that change something.
    pub const ALL: [Self; 23] = [
        Self::Pause,
        Self::Resume,
        Self::AcceptScope,
        Self::MergeSegments,
        Self::Rebuild,
        Self::RetryParked,
        Self::SkipParked,
        Self::Park,
        Self::Skip,
        Self::Activate,
        Self::Forget,
        Self::Rename,
        Self::StartNew,
        Self::Redact,
        Self::WatchRebuild,
        Self::Parked,
        Self::ParkedEvent,
        Self::ActiveVersion,
        Self::Status,
        Self::StatusSince,
        Self::Frontier,
        Self::UnknownEvents,
        Self::Explain,
    ];

    /// The name of the method.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::AcceptScope => "accept_scope",
            Self::MergeSegments => "merge_segments",
            Self::Rebuild => "rebuild",
            Self::RetryParked => "retry_parked",
            Self::SkipParked => "skip_parked",
            Self::Park => "park",
            Self::Skip => "skip",
            Self::Activate => "activate",
            Self::Forget => "forget",
            Self::Rename => "rename",
            Self::StartNew => "start_new",
            Self::Redact => "redact",
            Self::WatchRebuild => "watch_rebuild",
            Self::Parked => "parked",
            Self::ParkedEvent => "parked_event",
            Self::ActiveVersion => "active_version",
            Self::Status => "status",
            Self::StatusSince => "status_since",
            Self::Frontier => "frontier",
            Self::UnknownEvents => "unknown_events",
            Self::Explain => "explain",
        }
    }

    /// How often it is chosen among the commands.
    #[must_use]
    pub(super) fn weight(self) -> usize {
        match self {
            Self::Rebuild | Self::Park | Self::Skip => 4,
            Self::Resume | Self::AcceptScope | Self::RetryParked => 3,
            Self::Pause
            | Self::MergeSegments
            | Self::SkipParked
            | Self::Activate
            | Self::Forget
            | Self::Rename
            | Self::StartNew
            | Self::Redact => 2,
            // These change nothing.
            _ => 1,
        }
    }

    /// Whether it may be given while a worker runs.
    #[must_use]
    pub(super) fn may_be_beside(self) -> bool {
        // A merge has a worker of its own; the others need the code of a release that is gone, or a
        // consumer that has stopped, or take the checkpoint from the worker.
        !matches!(
            self,
            Self::MergeSegments
                | Self::AcceptScope
                | Self::Activate
                | Self::Forget
                | Self::StartNew
        )
    }
}
