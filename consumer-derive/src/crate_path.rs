//! The key `crate`: where generated code finds the `consumer` crate.

use quote::ToTokens;
use syn::Path;

use crate::errors::Errors;

/// The path as it was given, or `::consumer`.
pub(crate) fn or_default(given: Option<&Path>) -> Path {
    given
        .cloned()
        .unwrap_or_else(|| syn::parse_quote!(::consumer))
}

/// Whether the path means the same in every scope: generated code has scopes of its own.
pub(crate) fn is_absolute(path: &Path) -> bool {
    path.leading_colon.is_some()
        || path
            .segments
            .first()
            .is_some_and(|first| first.ident == "crate" || first.ident == "$crate")
}

pub(crate) fn refuse_relative(path: &Path, errors: &mut Errors) {
    if is_absolute(path) {
        return;
    }
    let written = path.to_token_stream().to_string().replace(' ', "");
    let name = written
        .trim_start_matches("self::")
        .trim_start_matches("super::");
    errors.at(
        path,
        format!(
            "`crate` must be an absolute path: write `crate = ::{name}` for a dependency, or begin with `crate::`"
        ),
    );
}
