//! How an instance of a declared consumer comes into being.

use std::marker::PhantomData;

use super::Dependencies;
use crate::contract::HandlerError;

/// Makes an instance; written by `#[consumer]`, once for each type. When a type has two blocks, this
/// name is what the compiler says of it.
pub trait OneConsumerBlockForEachType: Sized {
    /// Makes an instance out of the dependencies.
    ///
    /// # Errors
    /// What the consumer's `init` says.
    fn construct(dependencies: &Dependencies) -> Result<Self, HandlerError>;
}

/// Stands in the place of a value that has the name of the consumer's type, when there is none.
#[derive(Clone, Copy, Debug)]
pub struct NoValue;

/// Glob-imported under the name that generated code gives to the type; an import by name shadows it.
pub mod no_value {
    /// See [`NoValue`](super::NoValue).
    pub const __CONSUMER: super::NoValue = super::NoValue;
}

/// Makes an instance of a type that cannot be a unit struct.
#[must_use]
pub fn default_instance<T: HasDefault>() -> T {
    T::default_instance()
}

/// Chooses how to make a `T` by what its name means as a value: a unit struct is that value, and
/// everything else needs `Default`.
#[derive(Debug)]
pub struct Instance<V, T>(V, PhantomData<T>);

impl<V, T> Instance<V, T> {
    /// Looks at what the type's name means as a value.
    pub const fn of(value: V) -> Self {
        Self(value, PhantomData)
    }
}

impl<Unit> Instance<Unit, Unit> {
    /// Takes the unit struct itself. Found before [`DefaultInstance::make`], since it is inherent.
    pub fn make(self) -> Unit {
        self.0
    }
}

/// Makes an instance of everything that is not a unit struct.
pub trait DefaultInstance<T> {
    /// Takes the default.
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
    message = "nobody knows how to make a `{Self}`: it is no unit struct, has no `Default` and no `init`",
    label = "cannot be made",
    note = "derive or implement `Default` for `{Self}`, or name a function that makes one: `init = path::to::function`, a `fn(&Dependencies) -> Result<{Self}, E>`"
)]
pub trait HasDefault {
    /// The default.
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
    message = "an `init` function returns `Result<{T}, E>`, and this one returns `{Self}`",
    label = "wrong return type of `init`",
    note = "write `fn init(dependencies: &Dependencies) -> Result<{T}, E>`, where `E` is any error that `?` turns into `HandlerError`"
)]
pub trait InitOutcome<T> {
    /// The result with the error that the registry reports.
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

/// An `init` function; found by its shape, so that one of another shape gets a message of its own.
#[derive(Debug)]
pub struct InitWith<F>(pub F);

impl<F: FnOnce(&Dependencies) -> R, R> InitWith<F> {
    /// Calls it. Found before [`NoInit::make`], since it is inherent.
    ///
    /// # Errors
    /// What it returns.
    pub fn make<T>(self, dependencies: &Dependencies) -> Result<T, HandlerError>
    where
        R: InitOutcome<T>,
    {
        (self.0)(dependencies).into_result()
    }
}

/// A function of another shape.
pub trait NoInit<F>: Sized {
    /// Is refused.
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

/// Nothing; exists for its error message.
#[diagnostic::on_unimplemented(
    message = "an `init` function takes `&Dependencies`: write `fn make(dependencies: &Dependencies) -> Result<{T}, E>`",
    label = "takes something else",
    note = "what it needs it gets from them, as in `dependencies.get::<Broker>()?`"
)]
pub trait TakesDependencies<T> {}
