//! How a consumer wants to be run.

use std::time::Duration;

/// Where a consumer without a checkpoint begins.
///
/// See [`Settings`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFrom {
    /// At the first event of the log.
    #[default]
    Beginning,
    /// After the events that were settled when the checkpoint was created.
    Now,
}

/// What follows when a handler has failed on an event as often as its retries allow.
///
/// See [`Settings`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// The consumer stops before the event (R2).
    #[default]
    Stop,
    /// The event, and the later ones of its aggregate, are set aside; the others flow.
    Park,
    /// The event is left out; log and metrics tell.
    Skip,
}

/// How long to wait between two attempts: doubling from `min` up to `max`, with jitter.
///
/// See [`Settings`] for an example.
///
/// ```
/// use consumer::{Backoff, Settings};
///
/// let Backoff { min, max } = Settings::default().backoff;
/// println!("waits {min:?} after the first failure, and {max:?} at most");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
}

/// The operational settings of one consumer: from its attribute, or overridden on the builder.
///
/// ```
/// use std::time::Duration;
///
/// use consumer::{OnError, Settings, StartFrom};
///
/// let settings = Settings::default().batch_size(100).on_error(OnError::Park);
/// assert_eq!(settings.retries, 5);
///
/// // For one that calls a service: few events at a time, and patience with it.
/// let settings = Settings::default()
///     .start_from(StartFrom::Now)
///     .retries(20)
///     .backoff(Duration::from_secs(1), Duration::from_secs(60))
///     .batch_size(10)
///     .batch_time(Duration::from_millis(500))
///     .handler_timeout(Duration::from_secs(20))
///     .segments(3);
/// assert_eq!(settings.segments, 4);
/// assert_eq!(settings.backoff.max, Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Where a consumer without a checkpoint begins.
    pub start_from: StartFrom,
    /// What follows when the retries are used up.
    pub on_error: OnError,
    /// How often a failing event is tried again; 0 and more.
    pub retries: u32,
    /// The wait between attempts.
    pub backoff: Backoff,
    /// How many events one call of a handler and one transaction hold at most; 1 to 10,000.
    pub batch_size: u32,
    /// Whether a transaction may hold several batches; not where somebody has set their size.
    pub(crate) may_grow: bool,
    /// After what time a transaction ends at the next event.
    pub batch_time: Duration,
    /// How long one call of a handler may take; `None` for as long as it likes.
    pub handler_timeout: Option<Duration>,
    /// As how many lanes the consumer may run; a power of two up to 64.
    pub segments: u32,
}

impl Settings {
    /// What holds where nothing else is said.
    ///
    /// ```
    /// use consumer::Settings;
    ///
    /// /// What all consumers of this program that call a service have in common.
    /// const CALLS_A_SERVICE: Settings = Settings::DEFAULT.retries(20).batch_size(10);
    /// assert_eq!(CALLS_A_SERVICE.batch_time, Settings::DEFAULT.batch_time);
    /// ```
    pub const DEFAULT: Self = Self {
        start_from: StartFrom::Beginning,
        on_error: OnError::Stop,
        retries: 5,
        backoff: Backoff {
            min: Duration::from_millis(100),
            max: Duration::from_secs(30),
        },
        batch_size: 500,
        may_grow: true,
        batch_time: Duration::from_secs(1),
        handler_timeout: None,
        segments: 1,
    };

    /// The most events one transaction may hold.
    ///
    /// ```
    /// use consumer::Settings;
    ///
    /// let settings = Settings::default().batch_size(50_000);
    /// assert_eq!(settings.batch_size, Settings::MAX_BATCH_SIZE);
    /// ```
    pub const MAX_BATCH_SIZE: u32 = 10_000;

    /// Sets where a consumer without a checkpoint begins.
    ///
    /// See [`Settings`] for an example.
    #[must_use]
    pub const fn start_from(mut self, start_from: StartFrom) -> Self {
        self.start_from = start_from;
        self
    }

    /// Sets what follows when the retries are used up.
    ///
    /// See [`Settings`] for an example.
    #[must_use]
    pub const fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// Sets how often a failing event is tried again.
    ///
    /// See [`Settings`] for an example.
    #[must_use]
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets the wait between attempts; `max` below `min` counts as `min`.
    ///
    /// See [`Settings`] for an example.
    #[must_use]
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        let max = if max.as_nanos() < min.as_nanos() {
            min
        } else {
            max
        };
        self.backoff = Backoff { min, max };
        self
    }

    /// Sets how many events one transaction holds at most; brought into 1 to 10,000.
    ///
    /// Where it is not set, a batch is at most 500 events. On Postgres a transaction may then hold
    /// up to eight batches while more consumers have work than the worker has connections for:
    /// fifty that catch up together are slowed down by nothing as much as by their commits. No
    /// call of a handler is given more than one batch.
    ///
    /// See [`Settings`] for an example.
    #[must_use]
    pub const fn batch_size(mut self, events: u32) -> Self {
        self.may_grow = false;
        self.batch_size = in_range(events);
        self
    }

    /// Sets after what time a transaction ends at the next event.
    ///
    /// See [`Settings`] for an example.
    #[must_use]
    pub const fn batch_time(mut self, time: Duration) -> Self {
        self.batch_time = time;
        self
    }

    /// Sets how long one call of a handler may take.
    ///
    /// See [`Settings`] for an example.
    #[must_use]
    pub const fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.handler_timeout = Some(timeout);
        self
    }

    /// Sets as how many lanes the consumer may run; brought to a power of two up to 64.
    ///
    /// See [`Settings`] for an example.
    #[must_use]
    pub const fn segments(mut self, segments: u32) -> Self {
        let segments = if segments > 64 { 64 } else { segments };
        self.segments = segments.next_power_of_two();
        self
    }

    /// The same settings with every value brought into its range, as the methods above do it: the
    /// fields are public, so that a value may come from elsewhere.
    ///
    /// ```
    /// use consumer::Settings;
    ///
    /// // A value from a configuration file, say.
    /// let mut settings = Settings::default();
    /// settings.segments = 100;
    /// assert_eq!(settings.clamped().segments, 64);
    /// ```
    #[must_use]
    pub const fn clamped(self) -> Self {
        let Backoff { min, max } = self.backoff;
        let (batch_size, segments) = (self.batch_size, self.segments);
        let mut clamped = self.backoff(min, max).segments(segments);
        clamped.batch_size = in_range(batch_size);
        clamped
    }
}

#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
impl Settings {
    /// The size of a batch, as lengths are counted.
    pub(crate) fn batch_len(&self) -> usize {
        usize::try_from(self.batch_size).unwrap_or(usize::MAX)
    }
}

const fn in_range(batch_size: u32) -> u32 {
    if batch_size == 0 {
        1
    } else if batch_size > Settings::MAX_BATCH_SIZE {
        Settings::MAX_BATCH_SIZE
    } else {
        batch_size
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, Settings};
    use std::time::Duration;

    #[test]
    fn values_out_of_range_are_brought_into_it() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(9));
        let settings = Settings {
            batch_size: 0,
            segments: 0,
            backoff: Backoff {
                min: long,
                max: short,
            },
            ..Settings::DEFAULT
        };
        let clamped = settings.clamped();
        assert_eq!((clamped.batch_size, clamped.segments), (1, 1));
        assert_eq!((clamped.backoff.min, clamped.backoff.max), (long, long));
        let settings = Settings {
            batch_size: u32::MAX,
            segments: 48,
            ..Settings::DEFAULT
        };
        let clamped = settings.clamped();
        assert_eq!((clamped.batch_size, clamped.segments), (10_000, 64));
    }

    #[test]
    fn values_in_range_stay() {
        assert_eq!(Settings::default().clamped(), Settings::default());
    }
}
