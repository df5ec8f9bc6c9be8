//! How an instance of a declared consumer is made.

use std::marker::PhantomData;

use super::Dependencies;
use crate::contract::HandlerError;

/// Makes an instance. `#[consumer]` implements it, and the compiler shows its name if a type has two
/// blocks.
pub trait OneConsumerBlockForEachType: Sized {
    /// Makes an instance.
    ///
    /// # Errors
    /// Those of the consumer's `init`.
    fn construct(dependencies: &Dependencies) -> Result<Self, HandlerError>;
}

/// Replaces the value with the name of the consumer's type if there is no such value.
#[derive(Clone, Copy, Debug)]
pub struct NoValue;

/// Glob-imported under the name that generated code gives to the type. An import by name shadows it.
pub mod no_value {
    /// [`NoValue`](super::NoValue).
    pub const __CONSUMER: super::NoValue = super::NoValue;
}

/// Makes an instance of a type that cannot be a unit struct.
#[must_use]
pub fn default_instance<T: HasDefault>() -> T {
    T::default_instance()
}

/// Chooses how to create a `T`: a unit struct is the value `V` of the same name, and every other type needs
/// `Default`.
#[derive(Debug)]
pub struct Instance<V, T>(V, PhantomData<T>);

impl<V, T> Instance<V, T> {
    /// Takes the value that has the type's name.
    pub const fn of(value: V) -> Self {
        Self(value, PhantomData)
    }
}

impl<Unit> Instance<Unit, Unit> {
    /// The unit struct itself. Takes precedence over [`DefaultInstance::make`], since it is inherent.
    pub fn make(self) -> Unit {
        self.0
    }
}

/// Makes an instance of a type that is not a unit struct.
pub trait DefaultInstance<T> {
    /// The default.
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

/// Has a [`Default`]. It exists for its error message.
#[diagnostic::on_unimplemented(
    message = "`#[consumer]` cannot make a `{Self}`: it has no `Default` and no `init`",
    label = "no `Default`",
    note = "implement `Default` for `{Self}`, or name a function that makes one: `init = path::to::function`, a `fn(&Dependencies) -> Result<{Self}, E>`",
    note = "a unit struct needs neither if the block names the struct itself: write `impl {Self}` instead of an alias"
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

/// The return type of an `init` function. It exists for its error message.
#[diagnostic::on_unimplemented(
    message = "an `init` function returns `Result<{T}, E>`, but this one returns `{Self}`",
    label = "wrong return type of `init`",
    note = "write `fn init(dependencies: &Dependencies) -> Result<{T}, E>`, with an error that `?` converts into `HandlerError`"
)]
pub trait InitOutcome<T> {
    /// The result with a [`HandlerError`].
    ///
    /// # Errors
    /// The function's error.
    fn into_result(self) -> Result<T, HandlerError>;
}

#[diagnostic::do_not_recommend]
impl<T, E: Into<HandlerError>> InitOutcome<T> for Result<T, E> {
    fn into_result(self) -> Result<T, HandlerError> {
        self.map_err(Into::into)
    }
}

/// An `init` function. One with other parameters gets a message of its own, through [`NoInit`].
#[derive(Debug)]
pub struct InitWith<F>(pub F);

impl<F: FnOnce(&Dependencies) -> R, R> InitWith<F> {
    /// Calls it. Takes precedence over [`NoInit::make`], since it is inherent.
    ///
    /// # Errors
    /// The function's error.
    pub fn make<T>(self, dependencies: &Dependencies) -> Result<T, HandlerError>
    where
        R: InitOutcome<T>,
    {
        (self.0)(dependencies).into_result()
    }
}

/// A function with other parameters.
pub trait NoInit<F>: Sized {
    /// Refused at compile time.
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

/// Implemented by nothing: it exists for its error message.
#[diagnostic::on_unimplemented(
    message = "an `init` function takes `&Dependencies`: write `fn init(dependencies: &Dependencies) -> Result<{T}, E>`",
    label = "other parameters",
    note = "take everything else from the dependencies, as in `dependencies.get::<Broker>()?`"
)]
pub trait TakesDependencies<T> {}
