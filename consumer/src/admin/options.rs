//! The options of commands.

use std::time::Duration;

use crate::backend::ConsumerId;

/// Names the consumer that a command is for, and its version if there are several.
///
/// ```
/// use consumer::admin::Target;
///
/// let only: Target = "user_read_model".into();
/// let old = Target::new("user_read_model").version(1);
/// assert_ne!(only, old);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(crate) name: String,
    pub(crate) version: Option<u32>,
}

impl Target {
    /// Names a consumer.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: None,
        }
    }

    /// Chooses one version of the consumer.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }

    /// The consumer, of the first version unless another is chosen.
    pub(crate) fn id(&self) -> ConsumerId {
        ConsumerId {
            name: self.name.as_str().into(),
            version: self.version.unwrap_or(1),
        }
    }

    /// Whether this names the given consumer.
    pub(crate) fn means(&self, consumer: &ConsumerId) -> bool {
        *consumer.name == *self.name
            && self
                .version
                .is_none_or(|version| version == consumer.version)
    }
}

impl From<&str> for Target {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Target {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl From<&ConsumerId> for Target {
    fn from(consumer: &ConsumerId) -> Self {
        Self::new(&*consumer.name).version(consumer.version)
    }
}

/// Options of [`Admin::rebuild`](super::Admin::rebuild).
///
/// ```
/// use std::time::Duration;
///
/// use consumer::admin::RebuildOptions;
///
/// // For a consumer that workers are running, without a `reset`, and with parked events.
/// let options = RebuildOptions::new().wait(Duration::from_secs(30)).without_reset().discard_parked();
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RebuildOptions {
    pub(crate) wait: Duration,
    pub(crate) without_reset: bool,
    pub(crate) discard_parked: bool,
}

impl RebuildOptions {
    /// Refuses if a worker is processing a batch, if the consumer cannot empty its read model, or if
    /// it has parked events.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits up to this long for a worker's batch to finish, instead of refusing at once. Meanwhile, no other batch of
    /// the consumer begins.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Rewinds the checkpoint without calling the consumer's `reset`.
    ///
    /// This is for a consumer that has none, whose read model you emptied yourself or that
    /// overwrites existing rows.
    #[must_use]
    pub fn without_reset(mut self) -> Self {
        self.without_reset = true;
        self
    }

    /// Accepts that parked events are no longer parked: the rebuild delivers them at their place in the
    /// log, and those that no version has handled as new ones.
    ///
    /// Without this, the rebuild of a consumer that has any is refused.
    #[must_use]
    pub fn discard_parked(mut self) -> Self {
        self.discard_parked = true;
        self
    }
}

/// Options of [`Admin::activate`](super::Admin::activate).
#[derive(Clone, Copy, Debug, Default)]
pub struct ActivateOptions {
    pub(crate) force: bool,
}

impl ActivateOptions {
    /// Refuses a version that is behind or has parked events.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Activates the version even if it is behind or has parked events.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }
}

/// Options of [`Admin::forget`](super::Admin::forget).
#[derive(Clone, Copy, Debug, Default)]
pub struct ForgetOptions {
    pub(crate) force: bool,
    pub(crate) discard_parked: bool,
}

impl ForgetOptions {
    /// Refuses a consumer that is in this program or has parked events.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the consumer even if it is in this program, and lets it start from the beginning wherever a
    /// worker has it.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }

    /// Accepts that the consumer's parked events are never handled.
    #[must_use]
    pub fn discard_parked(mut self) -> Self {
        self.discard_parked = true;
        self
    }
}
