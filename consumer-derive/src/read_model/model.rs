//! A validated read model.

use syn::{Ident, Path, Type};

/// A struct whose values are the rows of a table.
pub(super) struct Model {
    pub(super) krate: Path,
    pub(super) ident: Ident,
    /// The table, perhaps with its schema.
    pub(super) table: String,
    /// The columns in the order of the fields, at least one of them a key.
    pub(super) columns: Vec<Column>,
}

/// A field and its column.
pub(super) struct Column {
    pub(super) field: Ident,
    pub(super) name: String,
    pub(super) content: Content,
    pub(super) role: Role,
    pub(super) is_indexed: bool,
}

/// The type of a field, and how it becomes a column.
pub(super) enum Content {
    /// A type that has a column of its own.
    Native(Type),
    /// A type that is stored in a column of this SQL type.
    Converted(Type, String),
    /// An `Option` of such a type.
    ConvertedOption(Type, String),
}

/// What a column is for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    /// It identifies the row, perhaps together with others.
    Key,
    /// It is filled in with the position of the last event that changed the row.
    Position,
    /// It is what handlers make it.
    Plain,
}

impl Model {
    /// The columns that identify a row, in the order of the fields.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Column> {
        self.columns
            .iter()
            .filter(|column| column.role == Role::Key)
    }
}

impl Content {
    /// The type of the field, without the `Option` of a converted one.
    pub(super) fn ty(&self) -> &Type {
        match self {
            Self::Native(ty) | Self::Converted(ty, _) | Self::ConvertedOption(ty, _) => ty,
        }
    }
}
