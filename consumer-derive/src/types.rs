//! What the tokens of a type show about it.

use quote::ToTokens;
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

/// The type without spaces, as messages show it.
pub(crate) fn written(ty: &Type) -> String {
    ty.to_token_stream().to_string().replace(' ', "")
}

/// The type in an `Option`.
pub(crate) fn option_of(ty: &Type) -> Option<&Type> {
    if last_name(ty).as_deref() != Some("Option") {
        return None;
    }
    type_arguments(ty).into_iter().next()
}

/// What to write instead of a reference, or of an `Option` of one; `None` for other types.
pub(crate) fn owned(ty: &Type) -> Option<String> {
    if let Some(inner) = option_of(ty) {
        return owned(inner).map(|inner| format!("Option<{inner}>"));
    }
    let Type::Reference(reference) = unwrapped(ty) else {
        return None;
    };
    Some(match unwrapped(&reference.elem) {
        Type::Slice(slice) => format!("Vec<{}>", written(&slice.elem)),
        other if last_name(other).as_deref() == Some("str") => "String".to_owned(),
        other => written(other),
    })
}
