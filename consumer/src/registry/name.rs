//! The rules for consumer names (R1).

use thiserror::Error;

/// The longest name, in bytes, that fits every index of the checkpoint table.
const MAX_NAME_LENGTH: usize = 255;

/// Why [`check_name`] refuses a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// It is empty.
    #[error("the consumer name is empty: choose a unique one, such as `user_read_model`")]
    Empty,
    /// It begins or ends with white space.
    #[error("the consumer name `{name}` has white space around it: write `{}`", name.trim())]
    Padded {
        /// The name.
        name: String,
    },
    /// It has more than 255 characters.
    #[error("the consumer name `{name}` has {length} characters: shorten it to 255 or fewer")]
    TooLong {
        /// The beginning of the name.
        name: String,
        /// The length of the whole name.
        length: usize,
    },
    /// It has a character that is not allowed.
    #[error(
        "the consumer name `{name}` has the character {character:?}: use only ASCII letters, digits and `_ - . : / @`"
    )]
    Character {
        /// The name.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
}

/// Checks that a consumer's name has 1 to 255 characters, all ASCII letters, digits or `_ - . : / @`.
///
/// `#[consumer]` checks names at compile time; the worker's builder checks the names of consumers that
/// are added by hand.
///
/// # Errors
/// The first rule that the name breaks, and what to write instead.
///
/// ```
/// use consumer::{NameError, check_name};
///
/// assert_eq!(check_name("system.integration.users"), Ok(()));
/// assert_eq!(check_name(""), Err(NameError::Empty));
/// ```
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Empty);
    }
    if name.trim() != name {
        return Err(NameError::Padded { name: name.into() });
    }
    // Characters of more than one byte are refused below.
    let length = name.chars().count();
    if length > MAX_NAME_LENGTH {
        let name = name.chars().take(40).chain("…".chars()).collect();
        return Err(NameError::TooLong { name, length });
    }
    match name.chars().find(|&character| !is_allowed(character)) {
        None => Ok(()),
        Some(character) => Err(NameError::Character {
            name: name.into(),
            character,
        }),
    }
}

fn is_allowed(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_-.:/@".contains(character)
}
