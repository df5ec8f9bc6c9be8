//! Values that are not literals: a macro runs before they are evaluated.

use proc_macro2::{TokenStream, TokenTree};

/// What is written instead of a literal, if it would be one later: a constant, or a call of a macro such
/// as `concat!`.
pub(crate) fn unevaluated(written: &TokenStream) -> Option<String> {
    let mut path = String::new();
    for token in written.clone() {
        match token {
            TokenTree::Ident(word) if word != "true" && word != "false" => {
                path.push_str(&word.to_string());
            }
            TokenTree::Punct(colon) if colon.as_char() == ':' => path.push(':'),
            TokenTree::Punct(bang) if bang.as_char() == '!' && !path.is_empty() => {
                return Some(format!("`{path}!` is expanded"));
            }
            _ => return None,
        }
    }
    // Any other word lacks its quotes.
    let is_constant = path.contains(':')
        || path.contains(char::is_uppercase) && !path.contains(char::is_lowercase);
    is_constant.then(|| format!("`{path}` is evaluated"))
}
