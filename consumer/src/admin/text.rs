//! Numbers in messages.

/// A number with its thousands separated.
pub(crate) fn number(number: impl TryInto<i128>) -> String {
    let number = number.try_into().unwrap_or_default();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of things whose plural takes an `s`: `1 event`, `1,000 events`.
pub(crate) fn count(count: u64, singular: &str) -> String {
    match count {
        1 => format!("1 {singular}"),
        _ => format!("{} {singular}s", number(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::{count, number};

    #[test]
    fn thousands_are_separated() {
        for (given, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (-1_234_567, "-1,234,567"),
        ] {
            assert_eq!(number(given), expected);
        }
    }

    #[test]
    fn only_one_is_singular() {
        for (given, expected) in [(0, "0 events"), (1, "1 event"), (1_000, "1,000 events")] {
            assert_eq!(count(given, "event"), expected);
        }
    }
}
