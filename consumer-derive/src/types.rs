//! What the tokens of a type show about it.

use syn::{GenericArgument, PathArguments, Type};

/// A type without the groups that `macro_rules!` and parentheses put around it.
pub(crate) fn unwrapped(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => unwrapped(&group.elem),
        Type::Paren(paren) => unwrapped(&paren.elem),
        other => other,
    }
}

/// The name of the type at the end of its path.
pub(crate) fn last_name(ty: &Type) -> Option<String> {
    match unwrapped(ty) {
        Type::Path(ty) => ty.path.segments.last().map(|last| last.ident.to_string()),
        _ => None,
    }
}

/// The types in the angle brackets at the end of a path.
pub(crate) fn type_arguments(ty: &Type) -> Vec<&Type> {
    let Type::Path(ty) = unwrapped(ty) else {
        return Vec::new();
    };
    match ty.path.segments.last().map(|last| &last.arguments) {
        Some(PathArguments::AngleBracketed(list)) => list
            .args
            .iter()
            .filter_map(|argument| match argument {
                GenericArgument::Type(ty) => Some(ty),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}
