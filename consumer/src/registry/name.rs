//! What a consumer may be called (R1).

use thiserror::Error;

/// The longest name, in bytes; names of this length still fit every index of the checkpoint table.
pub(crate) const MAX_NAME_LENGTH: usize = 255;

/// Why a text cannot be a consumer's name.
///
/// See [`check_name`] for an example.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is nothing in it.
    #[error("a consumer's name is empty: give it one that is unique, such as `user_read_model`")]
    Empty,
    /// It begins or ends with white space.
    #[error("the consumer name `{name}` has white space around it: write `{}`", name.trim())]
    Padded {
        /// The name as it was given.
        name: String,
    },
    /// It has more than 255 characters.
    #[error("the consumer name `{name}` has {length} characters: shorten it to 255 or fewer")]
    TooLong {
        /// The beginning of the name.
        name: String,
        /// How long the whole name is.
        length: usize,
    },
    /// It has a character that names do not have.
    #[error(
        "the consumer name `{name}` has the character {character:?}: use letters, digits and `_ - . : / @` only"
    )]
    Character {
        /// The name as it was given.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
}

/// Checks a consumer's name: 1 to 255 of letters, digits and `_ - . : / @`.
///
/// `#[consumer]` checks this at compile time; for consumers named by hand the worker's builder
/// calls it.
///
/// # Errors
/// What is wrong with the name, and what to write instead.
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
    match name
        .chars()
        .find(|&character| !may_stand_in_a_name(character))
    {
        None => Ok(()),
        Some(character) => Err(NameError::Character {
            name: name.into(),
            character,
        }),
    }
}

fn may_stand_in_a_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_-.:/@".contains(character)
}
