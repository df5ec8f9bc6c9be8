//! A validated event.

use syn::{Ident, Path, Type};

/// A Rust type that represents events.
pub(super) struct Model {
    pub(super) krate: Path,
    pub(super) ident: Ident,
    pub(super) aggregate: String,
    pub(super) shape: Shape,
}

pub(super) enum Shape {
    /// One event without fields.
    Unit(Format),
    /// One event.
    Struct(Format),
    /// All events of an aggregate.
    Enum(Vec<Variant>),
}

/// The event type and the versions of its payload.
pub(super) struct Format {
    pub(super) name: String,
    pub(super) version: i32,
    /// The earlier versions, without a gap, up to the one before `version`.
    pub(super) earlier: Vec<(i32, Type)>,
}

pub(super) struct Variant {
    pub(super) ident: Ident,
    /// Its index among the variants.
    pub(super) index: u32,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// `Deleted`
    Nothing(Format),
    /// `Registered { email: String }`
    Fields(Format),
    /// `Registered(UserRegistered)` without an attribute: the event of that type, or content in this
    /// format if the type is not an event.
    Type(Type, Format),
    /// `Registered(Data)` with an attribute: content of that type, in this format.
    Described(Type, Format),
}
