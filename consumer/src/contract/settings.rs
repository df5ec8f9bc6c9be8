//! How to run a consumer.

use std::time::Duration;

/// Where a consumer without a checkpoint begins; part of [`Settings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFrom {
    /// At the first event in the log.
    #[default]
    Beginning,
    /// After the events that are settled when its checkpoint is created. A new version starts where
    /// the version before it is, so that no event is left out.
    Now,
}

/// The policy for an event when all its retries have failed; part of [`Settings`].
///
/// A panic counts as a failed attempt only if it unwinds. With `panic = "abort"` in the Cargo profile
/// it ends the process before the attempt is recorded, and the restarted process is handed the same
/// event again: [`Park`](Self::Park) and [`Skip`](Self::Skip) then never apply to a handler that
/// panics, only to one that returns an error. A worker warns of it when it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// Stop the consumer before the event (R2).
    #[default]
    Stop,
    /// Park the event and the later events of its aggregate that the consumer
    /// [takes](crate::Consumer::takes), and continue with the others.
    Park,
    /// Skip the event; the log and the metrics record it.
    Skip,
}

/// The wait between two attempts, which doubles from `min` up to `max`, with jitter.
///
/// ```
/// use consumer::{Backoff, Settings};
///
/// let Backoff { min, max } = Settings::default().backoff;
/// println!("waits {min:?} after the first failure, at most {max:?}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
}

/// How to run one consumer, set by its attribute and overridden on the worker's builder.
///
/// ```
/// use std::time::Duration;
///
/// use consumer::{OnError, Settings, StartFrom};
///
/// let settings = Settings::default().batch_size(100).on_error(OnError::Park);
/// assert_eq!(settings.retries, 5);
///
/// // For a consumer that calls a slow service.
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
    /// Where the consumer begins if it has no checkpoint.
    pub start_from: StartFrom,
    /// The policy for an event when all its retries have failed.
    pub on_error: OnError,
    /// How many times a failed event is retried; 0 means never.
    pub retries: u32,
    /// The wait between attempts.
    pub backoff: Backoff,
    /// The maximum number of events in one batch, 1 to 10,000.
    pub batch_size: u32,
    /// Whether a transaction may hold several batches; false once their size has been set.
    pub(crate) may_grow: bool,
    /// The time after which a transaction ends at the next event.
    pub batch_time: Duration,
    /// The longest time that one handler call may take; `None` for no limit.
    pub handler_timeout: Option<Duration>,
    /// How many segments of the consumer may run in parallel; a power of two up to 64.
    pub segments: u32,
}

impl Settings {
    /// The default settings.
    ///
    /// ```
    /// use consumer::Settings;
    ///
    /// /// The settings shared by all consumers of this program that call a service.
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

    /// The largest [`batch_size`](Self::batch_size).
    ///
    /// ```
    /// use consumer::Settings;
    ///
    /// let settings = Settings::default().batch_size(50_000);
    /// assert_eq!(settings.batch_size, Settings::MAX_BATCH_SIZE);
    /// ```
    pub const MAX_BATCH_SIZE: u32 = 10_000;

    /// Sets where the consumer begins if it has no checkpoint.
    #[must_use]
    pub const fn start_from(mut self, start_from: StartFrom) -> Self {
        self.start_from = start_from;
        self
    }

    /// Sets what to do with an event when all its retries have failed.
    #[must_use]
    pub const fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// Sets how many times a failed event is retried.
    #[must_use]
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets the wait between attempts; a `max` below `min` is raised to `min`.
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

    /// Sets the most events of one batch, clamped to 1 to 10,000.
    ///
    /// The default is 500. As long as the size is not set, a transaction on Postgres may hold up to
    /// eight batches while more consumers have work than the worker has connections, because commits
    /// limit the throughput of many consumers that catch up at once. A handler call never receives
    /// more than one batch.
    ///
    /// A consumer with a read model, whose rows are written once a batch, takes up to 50,000 events
    /// instead, as long as the size is not set.
    #[must_use]
    pub const fn batch_size(mut self, events: u32) -> Self {
        self.may_grow = false;
        self.batch_size = in_range(events);
        self
    }

    /// Sets the time after which a transaction ends at the next event.
    #[must_use]
    pub const fn batch_time(mut self, time: Duration) -> Self {
        self.batch_time = time;
        self
    }

    /// Sets the longest time one handler call may take.
    #[must_use]
    pub const fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.handler_timeout = Some(timeout);
        self
    }

    /// Sets how many segments of the consumer may run in parallel, rounded up to a power of two of at
    /// most 64.
    #[must_use]
    pub const fn segments(mut self, segments: u32) -> Self {
        let segments = if segments > 64 { 64 } else { segments };
        self.segments = segments.next_power_of_two();
        self
    }

    /// Clamps every value to its range, as the methods above do; for values that were assigned to the
    /// fields.
    ///
    /// ```
    /// use consumer::Settings;
    ///
    /// let mut settings = Settings::default();
    /// settings.segments = 100;
    /// assert_eq!(settings.clamped().segments, 64);
    /// ```
    #[must_use]
    pub const fn clamped(self) -> Self {
        let Backoff { min, max } = self.backoff;
        let (batch_size, segments) = (self.batch_size, self.segments);
        let mut clamped = self.backoff(min, max).segments(segments);
        // Another size than the default has been set, whether by the method or in the field.
        clamped.may_grow = clamped.may_grow && batch_size == Self::DEFAULT.batch_size;
        clamped.batch_size = in_range(batch_size);
        clamped
    }
}

#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
impl Settings {
    /// The size of the batches of a read model, which are larger since a row is written once a batch.
    const LARGE_BATCH_SIZE: u32 = 50_000;

    /// Returns the settings for a consumer with a read model: unless the size of its batches has been
    /// set, they are large, and do not grow further.
    pub(crate) fn for_read_model(mut self) -> Self {
        if self.may_grow {
            self.may_grow = false;
            self.batch_size = Self::LARGE_BATCH_SIZE;
        }
        self
    }

    /// Returns whether batches are larger than a consumer can set.
    pub(crate) fn is_large_batch(&self) -> bool {
        self.batch_size > Self::MAX_BATCH_SIZE
    }

    /// Returns the size of a batch as a length.
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
    fn values_out_of_range_are_clamped() {
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

    #[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
    #[test]
    fn a_read_model_has_large_batches_unless_their_size_is_set() {
        let large = Settings::default().clamped().for_read_model();
        assert_eq!((large.batch_size, large.may_grow), (50_000, false));
        assert!(large.is_large_batch());
        // The default can be set too.
        for size in [1, 100, 500, 10_000] {
            let set = Settings::default().batch_size(size).clamped();
            assert_eq!(set.clone().for_read_model(), set);
            assert_eq!((set.batch_size, set.may_grow), (size, false));
            assert!(!set.is_large_batch());
        }
        let assigned = Settings {
            batch_size: 100,
            ..Settings::DEFAULT
        };
        let assigned = assigned.clamped().for_read_model();
        assert_eq!((assigned.batch_size, assigned.may_grow), (100, false));
    }
}
