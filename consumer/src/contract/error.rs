//! The error of a handler that cannot handle an event (R2), and how errors are printed.

use std::error::Error;
use std::fmt;

/// Any error that a handler returns: `?` converts every error type into it, and `String`s too.
///
/// Like `anyhow::Error` it does not implement [`Error`] itself, which is what lets `?` accept every
/// error type, `anyhow::Error` included. It therefore has no `source()`, and [`Display`] writes the
/// error and all its causes in one line. An error type that holds a `HandlerError` returns
/// [`as_error`](Self::as_error) from its own `source()`.
///
/// ```
/// use consumer::HandlerError;
///
/// fn parse(text: &str) -> Result<u32, HandlerError> {
///     if text.is_empty() {
///         return Err("nothing to parse".into());
///     }
///     Ok(text.parse()?)
/// }
///
/// assert_eq!(parse("").unwrap_err().to_string(), "nothing to parse");
/// let error = parse("one").unwrap_err();
/// assert!(error.as_error().is::<std::num::ParseIntError>());
/// assert_eq!(error.chain().count(), 1);
/// ```
///
/// [`Display`]: fmt::Display
pub struct HandlerError(Box<dyn Error + Send + Sync>);

impl HandlerError {
    /// Returns the outermost error, for `downcast_ref` and for the `source()` of an error around it.
    #[must_use]
    pub fn as_error(&self) -> &(dyn Error + 'static) {
        self.0.as_ref()
    }

    /// Returns the outermost error by value, for functions that return another boxed error:
    /// `.map_err(HandlerError::into_error)?`.
    #[must_use]
    pub fn into_error(self) -> Box<dyn Error + Send + Sync> {
        self.0
    }

    /// Iterates over the error and its causes, outermost first.
    pub fn chain(&self) -> impl Iterator<Item = &(dyn Error + 'static)> {
        causes(self.as_error())
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Lets `?` return it from a test or a `main` that returns `Box<dyn Error>`.
impl From<HandlerError> for Box<dyn Error> {
    fn from(error: HandlerError) -> Self {
        error.0
    }
}

impl fmt::Display for HandlerError {
    /// Writes the error and its causes in one line: `outer: cause: cause`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        chain(self.as_error()).fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Reports how far a batch got before a handler failed, and which events may have caused it.
///
/// The first `handled` events succeeded; the failing one is among the next `suspects`. A handler
/// that takes events one by one has exactly one suspect. One that takes a whole batch only knows
/// that one of its events failed, and the worker finds it by halving the batch.
///
/// ```
/// use std::error::Error;
///
/// use consumer::BatchError;
///
/// let failed = BatchError::at(3, "no such user");
/// assert_eq!((failed.handled, failed.suspects), (3, 1));
/// assert_eq!(failed.to_string(), "event 4 of the batch failed");
/// assert_eq!(failed.source().unwrap().to_string(), "no such user");
///
/// let failed = BatchError::within(3, 10, "the index is read-only");
/// assert_eq!(failed.to_string(), "one of the events 4 to 13 of the batch failed");
/// ```
#[derive(Debug)]
pub struct BatchError {
    /// How many events at the start of the batch were handled.
    pub handled: usize,
    /// How many events after those may be the failing one; at least 1.
    pub suspects: usize,
    /// The error of the handler.
    pub error: HandlerError,
}

impl BatchError {
    /// Reports that the event at index `handled` failed.
    pub fn at(handled: usize, error: impl Into<HandlerError>) -> Self {
        Self::within(handled, 1, error)
    }

    /// Reports that one of the `suspects` events from index `handled` on failed.
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
        let first = self.handled.saturating_add(1);
        match self.suspects {
            0 | 1 => write!(f, "event {first} of the batch failed"),
            several => {
                let last = self.handled.saturating_add(several);
                write!(f, "one of the events {first} to {last} of the batch failed")
            }
        }
    }
}

impl Error for BatchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.error.as_error())
    }
}

/// Displays an error and its causes in one line: `outer: cause: cause`.
///
/// A cause is left out if the line already ends with its text, as with errors of other crates that
/// display their cause themselves.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain(error)
}

/// See [`chain`].
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = text_of(self.0);
        // An error that writes its cause itself does so with all that the driver adds to it.
        for error in causes(self.0)
            .skip(1)
            .filter_map(|cause| cause.downcast_ref())
        {
            line = line.replace(&sqlx::Error::to_string(error), &driver_text(error));
        }
        let pairs = causes(self.0).zip(causes(self.0).skip(1));
        for (outer, cause) in pairs {
            let text = text_of(cause);
            // The message of a database's error is part of the text of sqlx's.
            if !is_from_database(outer) && !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
        }
        f.write_str(&line)
    }
}

/// The message of an error without its causes.
fn text_of(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref() {
        Some(error) => driver_text(error),
        None => error.to_string(),
    }
}

fn is_from_database(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(sqlx::Error::Database(_)))
}

/// The text of an error of sqlx, without the line that it adds to those of Postgres: that is a line in the
/// source of the server, and reads like one of the statement.
pub(crate) fn driver_text(error: &sqlx::Error) -> String {
    let text = error.to_string();
    let sqlx::Error::Database(database) = error else {
        return text;
    };
    let message = database.message();
    match text.rsplit_once(message) {
        Some((before, line)) if line.starts_with(" at line ") => format!("{before}{message}"),
        _ => text,
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fmt;

    use super::{BatchError, HandlerError, chain};

    /// An error with the given text and cause.
    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    fn layers(texts: &[&'static str]) -> Layer {
        match texts {
            [] => Layer("", None),
            [only] => Layer(only, None),
            [outer, causes @ ..] => Layer(outer, Some(Box::new(layers(causes)))),
        }
    }

    #[test]
    fn a_chain_is_one_line_with_each_cause_once() {
        for (texts, line) in [
            (&["outer"][..], "outer"),
            (&["outer", "middle", "inner"], "outer: middle: inner"),
            // sqlx writes the cause itself, and returns it as the source too.
            (
                &["query failed: no table", "no table"],
                "query failed: no table",
            ),
            (&["same", "same", "other"], "same: other"),
            (&["refused", "a: refused", "refused"], "refused: a: refused"),
            // A cause in the middle of the text is not at its end.
            (&["`users` is gone", "users"], "`users` is gone: users"),
            (&["outer", ""], "outer"),
        ] {
            assert_eq!(chain(&layers(texts)).to_string(), line);
        }
    }

    #[test]
    fn a_handler_error_displays_its_causes() {
        let error = HandlerError::from(layers(&["cannot send", "connection reset"]));
        assert_eq!(error.to_string(), "cannot send: connection reset");
        assert_eq!(error.chain().count(), 2);
    }

    #[test]
    fn a_batch_error_leaves_the_cause_to_its_source() {
        let error = BatchError::at(1, layers(&["cannot send", "connection reset"]));
        assert_eq!(error.to_string(), "event 2 of the batch failed");
        assert_eq!(
            chain(&error).to_string(),
            "event 2 of the batch failed: cannot send: connection reset"
        );
    }
}
