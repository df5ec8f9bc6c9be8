//! What a handler returns when it cannot handle an event (R2).

use std::error::Error;
use std::fmt;

/// Whatever went wrong in a handler; `?` makes it of any error, and of a `String`.
///
/// Like `anyhow::Error` it is not itself an [`Error`], which is what lets `?` accept every error
/// type, `anyhow::Error` among them.
///
/// ```
/// # use consumer::HandlerError;
/// fn parse(text: &str) -> Result<u32, HandlerError> {
///     if text.is_empty() {
///         return Err("nothing to parse".into());
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("").unwrap_err().to_string(), "nothing to parse");
/// ```
pub struct HandlerError(Box<dyn Error + Send + Sync>);

impl HandlerError {
    /// The error with its chain of sources.
    ///
    /// ```
    /// # use consumer::HandlerError;
    /// let error = HandlerError::from(std::io::Error::other("the disk is full"));
    /// assert!(error.as_error().is::<std::io::Error>());
    /// ```
    #[must_use]
    pub fn as_error(&self) -> &(dyn Error + 'static) {
        self.0.as_ref()
    }

    /// The error and everything that caused it, outermost first.
    ///
    /// ```
    /// # use consumer::HandlerError;
    /// let error = HandlerError::from(std::io::Error::other("the disk is full"));
    /// assert_eq!(error.chain().count(), 1);
    /// ```
    pub fn chain(&self) -> impl Iterator<Item = &(dyn Error + 'static)> {
        std::iter::successors(Some(self.as_error()), |&error| error.source())
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for HandlerError {
    /// The whole chain in one line, without repeating what an outer error already says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        for cause in self.chain().skip(1) {
            let text = cause.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Tells how far a batch came before a handler failed, and where the failing event must be.
///
/// The events before `handled` succeeded; the failing one is among the next `suspects`. A handler
/// that takes events one by one has exactly one suspect; one that takes a whole batch can only say
/// that it is somewhere in it, and the worker finds it by halving.
///
/// ```
/// use consumer::BatchError;
///
/// let failed = BatchError::at(3, "no such user");
/// assert_eq!((failed.handled, failed.suspects), (3, 1));
/// assert_eq!(failed.to_string(), "event 4 of the batch failed: no such user");
/// ```
#[derive(Debug)]
pub struct BatchError {
    /// How many events at the start of the batch were handled.
    pub handled: usize,
    /// Among how many events after those the failing one is; at least 1.
    pub suspects: usize,
    /// What went wrong.
    pub error: HandlerError,
}

impl BatchError {
    /// The event at index `handled` failed.
    ///
    /// See [`BatchError`] for an example.
    pub fn at(handled: usize, error: impl Into<HandlerError>) -> Self {
        Self::within(handled, 1, error)
    }

    /// One of the `suspects` events from index `handled` on failed.
    ///
    /// See [`Consumer::handle_batch`](crate::Consumer::handle_batch) for an example.
    pub fn within(handled: usize, suspects: usize, error: impl Into<HandlerError>) -> Self {
        Self {
            handled,
            suspects: suspects.max(1),
            error: error.into(),
        }
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "event {} of the batch failed: {}",
            self.handled + 1,
            self.error
        )
    }
}
