//! A validated event.

use proc_macro2::TokenStream;
use quote::ToTokens;
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
    pub(super) earlier: Vec<(i32, Earlier)>,
}

/// How an earlier version of a payload is read.
#[derive(Clone)]
pub(super) enum Earlier {
    /// As this type, which the next version is made of.
    Type(Type),
    /// As JSON, which this function makes the next version of.
    Function(Path),
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

impl Content {
    /// The type in the variant.
    pub(super) fn ty(&self) -> Option<&Type> {
        match self {
            Self::Type(ty, _) | Self::Described(ty, _) => Some(ty),
            Self::Nothing(_) | Self::Fields(_) => None,
        }
    }
}

impl ToTokens for Earlier {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::Type(ty) => ty.to_tokens(tokens),
            Self::Function(function) => function.to_tokens(tokens),
        }
    }
}
