//! What consumers need to be made of.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;

use thiserror::Error;

/// Values that the `init` functions of consumers are given: pools, clients, configuration; one of
/// each type.
///
/// ```
/// use consumer::{Dependencies, HandlerError};
///
/// struct Broker { url: String }
///
/// struct Publisher { url: String }
///
/// impl Publisher {
///     // named in `#[consumer(name = "publisher", init = Publisher::connect)]`
///     fn connect(dependencies: &Dependencies) -> Result<Self, HandlerError> {
///         let broker = dependencies.get::<Broker>()?;
///         Ok(Self { url: broker.url.clone() })
///     }
/// }
///
/// let dependencies = Dependencies::new().with(Broker { url: "amqp://localhost".into() });
/// assert_eq!(Publisher::connect(&dependencies)?.url, "amqp://localhost");
/// # Ok::<(), HandlerError>(())
/// ```
#[derive(Default)]
pub struct Dependencies {
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl Dependencies {
    /// Starts with nothing.
    ///
    /// See [`Dependencies`] for an example.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value, in place of an earlier one of the same type.
    ///
    /// See [`Dependencies`] for an example.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.insert(value);
        self
    }

    /// Adds a value, in place of an earlier one of the same type.
    ///
    /// ```
    /// # use consumer::Dependencies;
    /// let mut dependencies = Dependencies::new();
    /// dependencies.insert("smtp.example.com".to_owned());
    /// assert!(dependencies.get::<String>().is_ok());
    /// ```
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// The value of that type.
    ///
    /// See [`Dependencies`] for an example.
    ///
    /// # Errors
    /// When nobody added one. The registry reports this for all consumers at once.
    pub fn get<T: Send + Sync + 'static>(&self) -> Result<&T, MissingDependency> {
        self.values
            .get(&TypeId::of::<T>())
            .and_then(|value| value.downcast_ref())
            .ok_or(MissingDependency {
                type_name: type_name::<T>(),
            })
    }
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependencies")
            .field("values", &self.values.len())
            .finish()
    }
}

/// A consumer's `init` asked for a value that is not there.
///
/// ```
/// use consumer::Dependencies;
///
/// let missing = Dependencies::new().get::<String>().unwrap_err();
/// assert!(missing.type_name.ends_with("String"));
/// assert!(missing.to_string().contains("add one with `Dependencies::with`"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no `{type_name}` was provided: add one with `Dependencies::with`")]
pub struct MissingDependency {
    /// The type that was asked for.
    pub type_name: &'static str,
}
