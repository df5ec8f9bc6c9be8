//! A program's consumers: declared with `#[consumer]` and linked, or added by hand.

mod const_text;
pub(crate) mod construct;
mod crates;
mod declaration;
mod dependencies;
mod discover;
pub(crate) mod entry;
mod error;
pub(crate) mod handled;
pub(crate) mod knowledge;
pub(crate) mod lock;
mod name;
mod selection;
mod submit;

pub use self::crates::Crates;
pub use self::declaration::{Declaration, Registered, Site};
pub use self::dependencies::{Dependencies, MissingDependency};
pub use self::discover::{OtherDatabase, Registry};
pub use self::error::{Problem, RegistryError};
pub use self::name::{NameError, check_name};
pub use self::selection::Selection;
