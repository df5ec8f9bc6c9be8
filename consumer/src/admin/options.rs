//! What a verb is given.

use std::time::Duration;

/// Which consumer a verb is for: its name, and its version where there are several.
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
    pub(crate) consumer: String,
    pub(crate) version: Option<u32>,
}

impl Target {
    /// Names a consumer.
    ///
    /// See [`Target`] for an example.
    #[must_use]
    pub fn new(consumer: impl Into<String>) -> Self {
        Self {
            consumer: consumer.into(),
            version: None,
        }
    }

    /// Whether a declared consumer is the one that is meant.
    pub(crate) fn means(&self, declaration: &crate::registry::Declaration) -> bool {
        *declaration.name == *self.consumer
            && self
                .version
                .is_none_or(|version| version == declaration.version)
    }

    /// Says which version of it is meant.
    ///
    /// See [`Target`] for an example.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }
}

impl From<&str> for Target {
    fn from(consumer: &str) -> Self {
        Self::new(consumer)
    }
}

impl From<String> for Target {
    fn from(consumer: String) -> Self {
        Self::new(consumer)
    }
}

/// How a rebuild begins.
///
/// ```
/// use std::time::Duration;
///
/// use consumer::admin::RebuildOptions;
///
/// // For a consumer that workers have at hand, without a `reset`, and with parked events.
/// let options = RebuildOptions::new().wait(Duration::from_secs(30)).without_reset().discard_parked();
/// ```
///
/// See [`Admin::rebuild`](super::Admin::rebuild) for its use.
#[derive(Clone, Copy, Debug, Default)]
pub struct RebuildOptions {
    pub(crate) wait: Duration,
    pub(crate) without_reset: bool,
    pub(crate) discard_parked: bool,
}

impl RebuildOptions {
    /// Refuses when a worker has the consumer at hand, when it cannot empty its read model, or when it
    /// has parked events.
    ///
    /// See [`RebuildOptions`] for an example.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits so long for a worker's batch to end, instead of refusing at once.
    ///
    /// See [`RebuildOptions`] for an example.
    #[must_use]
    pub fn wait(mut self, timeouts: Duration) -> Self {
        self.wait = timeouts;
        self
    }

    /// Moves the checkpoint back without calling the consumer's `reset`: for a consumer that has
    /// none, and whose read model you emptied yourself or which overwrites what is there.
    ///
    /// See [`RebuildOptions`] for an example.
    #[must_use]
    pub fn without_reset(mut self) -> Self {
        self.without_reset = true;
        self
    }

    /// Gives up that parked events were never handled: a rebuild hands them over as a replay like
    /// all others, so that effects which the consumer leaves out in a replay are never had.
    ///
    /// See [`RebuildOptions`] for an example.
    #[must_use]
    pub fn discard_parked(mut self) -> Self {
        self.discard_parked = true;
        self
    }
}
