//! Numbers, rates and durations as people read them.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

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

/// The events that were at some positions: `event 5 was`, `events 5 to 7 were`.
pub(crate) fn events_were(positions: &RangeInclusive<i64>) -> String {
    let (from, to) = (number(*positions.start()), number(*positions.end()));
    if from == to {
        format!("event {from} was")
    } else {
        format!("events {from} to {to} were")
    }
}

/// A rate as a whole number per second.
pub(crate) fn rate(rate: f64) -> String {
    #[allow(clippy::cast_possible_truncation)] // the cast saturates
    let whole = rate.round() as i64;
    format!("{}/s", number(whole))
}

/// A duration in its two largest units.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => format!("{} ms", time.as_millis()),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A text of any origin as one line that a terminal shows and does not obey.
pub(crate) fn one_line(text: &str) -> String {
    let lines = text.split(['\n', '\r', '\t']).map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    visible(&lines.join(" "))
}

/// Words of a list, of which a long one names only the first.
pub(crate) fn listed(words: &[impl AsRef<str>]) -> String {
    const MOST: usize = 20;
    let shown: Vec<&str> = words.iter().take(MOST).map(AsRef::as_ref).collect();
    match words.len() {
        0 => "none".to_owned(),
        all if all > MOST => format!("{}, and {} more", shown.join(", "), number(all - MOST)),
        _ => shown.join(", "),
    }
}

/// The same with the words that are most like another one first.
pub(crate) fn listed_like(wanted: &str, words: &[impl AsRef<str>]) -> String {
    let mut words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    words.sort_by_key(|word| std::cmp::Reverse(likeness(wanted, word)));
    listed(&words)
}

/// Whether one of two words contains the other, and how many letters their beginnings share.
fn likeness(one: &str, other: &str) -> (bool, usize) {
    let contains = other.contains(one) || one.contains(other);
    let shared = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    (contains, shared.count())
}

/// Text of any origin, in which the characters that could move the cursor, change colours or reverse the
/// direction of what follows are replaced by their codes.
pub(crate) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for char in text.chars() {
        if is_obeyed(char) {
            visible.extend(char.escape_unicode());
        } else {
            visible.push(char);
        }
    }
    visible
}

/// Whether a terminal does something else with a character than to show it.
fn is_obeyed(char: char) -> bool {
    let turns = matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (char.is_control() && !matches!(char, '\n' | '\t'))
}

/// The same JSON, with escapes of JSON for the characters that a terminal obeys.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) fn visible_json(json: &str) -> String {
    let mut visible = String::with_capacity(json.len());
    for char in json.chars() {
        if is_obeyed(char) {
            // All of them have four digits.
            let _ = write!(visible, "\\u{:04x}", u32::from(char));
        } else {
            visible.push(char);
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{count, duration, events_were, listed, number, one_line, visible, visible_json};

    #[test]
    fn a_long_list_names_the_first_and_counts_the_others() {
        assert_eq!(listed(&[""; 0]), "none");
        assert_eq!(listed(&["a", "b"]), "a, b");
        let twenty = vec!["a"; 20];
        assert!(!listed(&twenty).contains("more"));
        let names = vec!["a"; 1_021];
        assert!(listed(&names).ends_with("a, a, and 1,001 more"));
    }

    #[test]
    fn json_that_a_terminal_would_obey_stays_the_same_json() {
        let rude = serde_json::json!({ "rude": "a\u{202e}b\u{9b}2J\u{1b}[2J\n", "é": [1, 2] });
        let text = serde_json::to_string_pretty(&rude).unwrap();
        let shown = visible_json(&text);
        assert!(text.contains('\u{202e}'), "the control");
        assert!(!shown.contains(['\u{202e}', '\u{9b}', '\u{1b}']), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            rude
        );
    }

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
    fn one_event_was_and_several_were() {
        assert_eq!(events_were(&(5..=5)), "event 5 was");
        assert_eq!(events_were(&(5..=1_007)), "events 5 to 1,007 were");
    }

    #[test]
    fn a_terminal_shows_a_text_and_does_not_obey_it() {
        assert_eq!(one_line("a\r\n  b\n\n\tc "), "a b c");
        assert_eq!(one_line("a\u{1b}[2Jb\u{7}"), "a\\u{1b}[2Jb\\u{7}");
        assert_eq!(
            visible("{\n\t\"é\": 1\n}\u{202e}"),
            "{\n\t\"é\": 1\n}\\u{202e}"
        );
    }

    #[test]
    fn only_one_is_singular() {
        for (given, expected) in [(0, "0 events"), (1, "1 event"), (1_000, "1,000 events")] {
            assert_eq!(count(given, "event"), expected);
        }
    }

    #[test]
    fn durations_have_their_two_largest_units() {
        for (millis, expected) in [
            (20, "20 ms"),
            (59_900, "59 s"),
            (61_000, "1 min 1 s"),
            (3_661_000, "1 h 1 min"),
            (90_061_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
    }
}
