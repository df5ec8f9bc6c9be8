//! Names made of the user's names, for messages.

/// `HTTPLog` as `http_log`.
pub(crate) fn snake_case(ident: &str) -> String {
    let mut name = String::new();
    let mut before = '_';
    let mut characters = ident.chars().peekable();
    while let Some(character) = characters.next() {
        let is_last_capital = characters.peek().is_some_and(|next| next.is_lowercase());
        let begins_a_word = before != '_' && (!before.is_uppercase() || is_last_capital);
        if character.is_uppercase() && begins_a_word {
            name.push('_');
        }
        name.extend(character.to_lowercase());
        before = character;
    }
    name
}
