//! Texts in constants.

/// Whether two texts are equal. The names of an aggregate's events often begin alike, so the bytes are
/// compared from the end: the compiler limits how long a check may take.
pub(crate) const fn same(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    while let ([more @ .., a], [others @ .., b]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (more, others);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn texts_are_compared() {
        assert!(same("User", "User"));
        assert!(!same("User", "Users"));
        assert!(!same("User", "user"));
    }
}
