//! Suggestions: "did you mean".

use std::fmt::Display;

/// The candidate that was probably meant.
pub(crate) fn closest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= tolerance(word, candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
        .or_else(|| completed(word, candidates))
}

/// One mistake in a short word, more in a long one.
fn tolerance(word: &str, candidate: &str) -> usize {
    match word.len().max(candidate.len()) {
        0..=4 => 1,
        5..=9 => 2,
        _ => 3,
    }
}

/// The only candidate that begins with a half-typed word.
fn completed<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let mut matching = candidates
        .iter()
        .filter(|candidate| word.len() >= 2 && candidate.starts_with(word));
    let first = matching.next()?;
    matching.next().is_none().then_some(*first)
}

/// `` `a`, `b` and `c` ``
pub(crate) fn listed(words: impl IntoIterator<Item = impl Display>) -> String {
    let mut quoted: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.pop() {
        None => String::new(),
        Some(last) if quoted.is_empty() => last,
        Some(last) => format!("{} and {last}", quoted.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{closest, listed};

    const KEYS: &[&str] = &["name", "aggregates", "batch_size", "batch_time", "retries"];

    #[test]
    fn a_typo_finds_the_nearest_key() {
        assert_eq!(closest("nmae", KEYS), Some("name"));
        assert_eq!(closest("aggregate", KEYS), Some("aggregates"));
        assert_eq!(closest("batchsize", KEYS), Some("batch_size"));
    }

    #[test]
    fn a_half_typed_word_finds_its_only_completion() {
        assert_eq!(closest("agg", KEYS), Some("aggregates"));
        assert_eq!(closest("batch", KEYS), None);
    }

    #[test]
    fn an_unrelated_word_gets_no_suggestion() {
        assert_eq!(closest("colour", KEYS), None);
        assert_eq!(closest("", KEYS), None);
    }

    #[test]
    fn a_list_ends_with_and() {
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
