//! The values that consumers are created from.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;

use thiserror::Error;

/// The values that `init` functions receive, such as pools, clients and configuration; one of each
/// type.
///
/// ```
/// use consumer::{Dependencies, HandlerError};
///
/// struct Broker { url: String }
///
/// struct Publisher { url: String }
///
/// impl Publisher {
///     // For `#[consumer(name = "publisher", init = Publisher::connect)]`.
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
    /// Creates an empty collection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value and returns the collection; replaces an earlier value of the same type.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.insert(value);
        self
    }

    /// Adds a value; replaces an earlier value of the same type.
    ///
    /// ```
    /// use consumer::Dependencies;
    ///
    /// let mut dependencies = Dependencies::new();
    /// dependencies.insert("smtp.example.com".to_owned());
    /// assert!(dependencies.get::<String>().is_ok());
    /// ```
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// Returns the value of that type.
    ///
    /// # Errors
    /// If no value of that type was added. The registry reports this for all consumers at once.
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

/// An `init` function asked for a value that was not provided.
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
