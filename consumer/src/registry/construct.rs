//! How instances of declared consumers are created.

use std::marker::PhantomData;

use super::Dependencies;
use crate::contract::HandlerError;

/// Creates an instance; implemented by `#[consumer]` once for each type. If a type has two blocks, the
/// compiler reports this trait's name.
pub trait OneConsumerBlockForEachType: Sized {
    /// Creates an instance from the dependencies.
    ///
    /// # Errors
    /// The error of the consumer's `init`.
    fn construct(dependencies: &Dependencies) -> Result<Self, HandlerError>;
}

/// The value for a type whose name is not a value as well.
#[derive(Clone, Copy, Debug)]
pub struct NoValue;

/// Glob-imported under the name that generated code gives to the type; an import by name shadows it.
pub mod no_value {
    /// See [`NoValue`](super::NoValue).
    pub const __CONSUMER: super::NoValue = super::NoValue;
}

/// Creates an instance of a type that cannot be a unit struct.
#[must_use]
pub fn default_instance<T: HasDefault>() -> T {
    T::default_instance()
}

/// Chooses how to create a `T` by what its name means as a value: a unit struct is that value, and
/// every other type needs `Default`.
#[derive(Debug)]
pub struct Instance<V, T>(V, PhantomData<T>);

impl<V, T> Instance<V, T> {
    /// Takes what the type's name means as a value.
    pub const fn of(value: V) -> Self {
        Self(value, PhantomData)
    }
}

impl<Unit> Instance<Unit, Unit> {
    /// Returns the unit struct itself. Found before [`DefaultInstance::make`], since it is inherent.
    pub fn make(self) -> Unit {
        self.0
    }
}

/// Creates an instance of a type that is not a unit struct.
pub trait DefaultInstance<T> {
    /// Returns the default.
    fn make(self) -> T
    where
        T: HasDefault;
}

impl<V, T> DefaultInstance<T> for Instance<V, T> {
    fn make(self) -> T
    where
        T: HasDefault,
    {
        T::default_instance()
    }
}

/// Has a [`Default`]; exists for its error message.
#[diagnostic::on_unimplemented(
    message = "cannot create a `{Self}`: it is not a unit struct and has neither `Default` nor `init`",
    label = "cannot be created",
    note = "derive or implement `Default` for `{Self}`, or name a function that creates one: `init = path::to::function`, a `fn(&Dependencies) -> Result<{Self}, E>`"
)]
pub trait HasDefault {
    /// Returns the default.
    fn default_instance() -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Default> HasDefault for T {
    fn default_instance() -> Self {
        T::default()
    }
}

/// What an `init` function returns; exists for its error message.
#[diagnostic::on_unimplemented(
    message = "an `init` function returns `Result<{T}, E>`, but this one returns `{Self}`",
    label = "wrong return type of `init`",
    note = "write `fn init(dependencies: &Dependencies) -> Result<{T}, E>`, where `E` is any error that `?` converts into `HandlerError`"
)]
pub trait InitOutcome<T> {
    /// Converts the error into the one that the registry reports.
    ///
    /// # Errors
    /// What the function returned.
    fn into_result(self) -> Result<T, HandlerError>;
}

#[diagnostic::do_not_recommend]
impl<T, E: Into<HandlerError>> InitOutcome<T> for Result<T, E> {
    fn into_result(self) -> Result<T, HandlerError> {
        self.map_err(Into::into)
    }
}

/// An `init` function, recognised by its signature so that any other signature has its own message.
#[derive(Debug)]
pub struct InitWith<F>(pub F);

impl<F: FnOnce(&Dependencies) -> R, R> InitWith<F> {
    /// Calls the function. Found before [`NoInit::make`], since it is inherent.
    ///
    /// # Errors
    /// What the function returned.
    pub fn make<T>(self, dependencies: &Dependencies) -> Result<T, HandlerError>
    where
        R: InitOutcome<T>,
    {
        (self.0)(dependencies).into_result()
    }
}

/// A function of another signature.
pub trait NoInit<F>: Sized {
    /// Does not compile.
    ///
    /// # Errors
    /// Always.
    fn make<T>(self, _: &Dependencies) -> Result<T, HandlerError>
    where
        F: TakesDependencies<T>,
    {
        Err("no `init`".into())
    }
}

impl<F> NoInit<F> for InitWith<F> {}

/// Implemented by no type; exists for its error message.
#[diagnostic::on_unimplemented(
    message = "an `init` function takes `&Dependencies`: write `fn init(dependencies: &Dependencies) -> Result<{T}, E>`",
    label = "takes something else",
    note = "get each value that it needs from the dependencies, as in `dependencies.get::<Broker>()?`"
)]
pub trait TakesDependencies<T> {}
