//! The rules of the keys, one function per key.

use proc_macro2::Span;
use syn::{LitInt, LitStr, Path};

use crate::args::{Aggregate, Args, Former, Slot};
use crate::crate_path;
use crate::errors::Errors;
use crate::keys::{self, NONE};
use crate::model::{Formerly, OnError, Settings};
use crate::suggest::{closest, listed};

/// The longest name that fits the index of the checkpoint table.
const MAX_NAME_LENGTH: usize = 255;

/// The largest batch.
const MAX_BATCH_SIZE: u32 = 10_000;

/// The largest number of segments of one consumer.
const MAX_SEGMENTS: u32 = 64;

/// The highest version that the checkpoint table holds.
const MAX_VERSION: u32 = i32::MAX as u32;

pub(super) fn name(args: &Args, suggestion: Option<&str>, errors: &mut Errors) -> String {
    let Some(written) = args.name.value() else {
        if args.name.key().is_none() {
            let suggestion = suggestion.unwrap_or("user_read_model");
            errors.at_span(
                Span::call_site(),
                format!(
                    "the name of this consumer is missing: write `#[consumer(name = \"{suggestion}\")]`, a unique name that keys the checkpoint"
                ),
            );
        }
        return String::new();
    };
    let name = written.value();
    if let Some(mistake) = mistake_in_name(&name) {
        errors.at(written, mistake);
    }
    name
}

pub(super) fn mistake_in_name(name: &str) -> Option<String> {
    let trimmed = name.trim();
    if trimmed.is_empty() {
        return Some("the name is empty: write a unique one, such as `\"user_read_model\"`".into());
    }
    // Every character that is accepted below has one byte.
    let length = trimmed.chars().count();
    if length > MAX_NAME_LENGTH {
        return Some(format!(
            "the name has {length} characters: shorten it to {MAX_NAME_LENGTH} or fewer"
        ));
    }
    let odd = trimmed
        .chars()
        .find(|&character| !(character.is_ascii_alphanumeric() || "_-.:/@".contains(character)));
    if let Some(odd) = odd {
        return Some(format!(
            "the name contains {odd:?}: use only ASCII letters, digits and `_ - . : / @`"
        ));
    }
    // Last, since the trimmed name must be one that is accepted.
    (trimmed != name).then(|| format!("the name has white space around it: write `\"{trimmed}\"`"))
}

pub(super) fn crate_path(args: &Args, errors: &mut Errors) -> Path {
    let path = args.krate.value();
    if let Some(path) = path {
        crate_path::refuse_relative(path, errors);
    }
    crate_path::or_default(path)
}

pub(super) fn version(args: &Args, errors: &mut Errors) -> u32 {
    number(&args.version, 1, MAX_VERSION, "2", errors).unwrap_or(1)
}

pub(super) fn scope(args: &Args, errors: &mut Errors) -> Option<Vec<Aggregate>> {
    let aggregates = &args.aggregates.value()?.0;
    let mut names: Vec<String> = Vec::new();
    for aggregate in aggregates {
        let Aggregate::Name(name) = aggregate else {
            continue;
        };
        let text = name.value();
        if names.contains(&text) {
            errors.at(
                name,
                format!("the aggregate type `{text}` is listed twice: remove one of the two"),
            );
        } else if let Some(mistake) = mistake_in_aggregate(&text) {
            errors.at(name, mistake);
        }
        names.push(text);
    }
    Some(aggregates.iter().map(Aggregate::clone).collect())
}

fn mistake_in_aggregate(name: &str) -> Option<String> {
    if name.trim().is_empty() {
        return Some(
            "an aggregate type must not be empty: name one, or omit `aggregates` to receive every event"
                .into(),
        );
    }
    (name.trim() != name).then(|| {
        format!(
            "the aggregate type has white space around it: write `\"{}\"`",
            name.trim()
        )
    })
}

/// The event types to pass over.
pub(super) fn ignored(args: &Args, errors: &mut Errors) -> Vec<LitStr> {
    let Some(written) = args.ignore.value() else {
        return Vec::new();
    };
    let names = &written.0;
    if let (true, Some(key)) = (names.is_empty(), args.ignore.key()) {
        errors.at(
            key,
            "`ignore` names no event type: write `ignore = [\"Legacy\"]`, or remove it",
        );
    }
    let mut seen: Vec<String> = Vec::new();
    for name in names {
        let text = name.value();
        if seen.contains(&text) {
            errors.at(
                name,
                format!("the event type `{text}` is listed twice: remove one of the two"),
            );
        } else if text.trim() != text || text.is_empty() {
            errors.at(
                name,
                "an event type must not be empty or have white space around it: write `ignore = [\"Legacy\"]`",
            );
        }
        seen.push(text);
    }
    names.clone()
}

pub(super) fn group(args: &Args, errors: &mut Errors) -> Option<String> {
    let written = args.group.value()?;
    let group = written.value();
    if group.trim().is_empty() || group.trim() != group {
        errors.at(
            written,
            "`group` must not be empty or have white space around it: write `group = \"projections\"`",
        );
    }
    Some(group)
}

pub(super) fn formerly(args: &Args, name: &str, errors: &mut Errors) -> Formerly {
    let written = match args.formerly.value() {
        None => return Formerly::Unstated,
        Some(Former::None) => return Formerly::None,
        Some(Former::Name(written)) => written,
    };
    let former = written.value();
    if former == NONE {
        errors.at(
            written,
            "a consumer that never had another name says so without quotes: write `formerly = none`",
        );
    } else if let Some(mistake) = mistake_in_name(&former) {
        errors.at(
            written,
            format!("no consumer was ever called this: {mistake}"),
        );
    } else if former == name {
        errors.at(
            written,
            format!(
                "`{former}` is the name that the consumer has now: write the one that it had before, or remove `formerly`"
            ),
        );
    }
    Formerly::Name(former)
}

pub(super) fn settings(args: &Args, errors: &mut Errors) -> Settings {
    Settings {
        start_from_now: start_from_now(args, errors),
        on_error: on_error(args, errors),
        retries: number(&args.retries, 0, u32::MAX, "5", errors),
        backoff: backoff(args, errors),
        batch_size: number(&args.batch_size, 1, MAX_BATCH_SIZE, "500", errors),
        batch_time: duration(&args.batch_time, errors),
        handler_timeout: duration(&args.handler_timeout, errors),
        segments: segments(args, errors),
    }
}

fn start_from_now(args: &Args, errors: &mut Errors) -> bool {
    one_of(&args.start_from, &[keys::BEGINNING, keys::NOW], errors) == Some(keys::NOW)
}

fn on_error(args: &Args, errors: &mut Errors) -> Option<OnError> {
    match one_of(
        &args.on_error,
        &[keys::STOP, keys::PARK, keys::SKIP],
        errors,
    )? {
        keys::PARK => Some(OnError::Park),
        keys::SKIP => Some(OnError::Skip),
        _ => Some(OnError::Stop),
    }
}

fn one_of<'a>(slot: &Slot<LitStr>, choices: &[&'a str], errors: &mut Errors) -> Option<&'a str> {
    let written = slot.value()?;
    let text = written.value();
    let found = choices.iter().find(|choice| **choice == text);
    if found.is_none() {
        let key = slot.key()?;
        let advice = match closest(&text, choices) {
            Some(meant) => format!("did you mean `{key} = \"{meant}\"`?"),
            None => format!(
                "the values are {}",
                listed(choices.iter().map(|choice| format!("\"{choice}\"")))
            ),
        };
        errors.at(written, format!("`{key}` cannot be `\"{text}\"`: {advice}"));
    }
    found.copied()
}

fn segments(args: &Args, errors: &mut Errors) -> Option<u32> {
    let written = args.segments.value()?;
    refuse_suffix(&args.segments, errors)?;
    let count = written.base10_parse().ok();
    let count = count.filter(|count: &u32| count.is_power_of_two() && *count <= MAX_SEGMENTS);
    if count.is_none() {
        errors.at(
            written,
            "`segments` takes a power of two from 1 to 64: write `segments = 8`",
        );
    }
    count
}

fn number(
    slot: &Slot<LitInt>,
    min: u32,
    max: u32,
    example: &str,
    errors: &mut Errors,
) -> Option<u32> {
    let written = slot.value()?;
    refuse_suffix(slot, errors)?;
    let number = written.base10_parse().ok();
    let number = number.filter(|number| (min..=max).contains(number));
    if number.is_none() {
        let key = slot.key()?;
        errors.at(
            written,
            format!("`{key}` takes a whole number from {min} to {max}: write `{key} = {example}`"),
        );
    }
    number
}

/// `None` if the number has a suffix, as in `5u32`.
fn refuse_suffix(slot: &Slot<LitInt>, errors: &mut Errors) -> Option<()> {
    let (key, written) = (slot.key()?, slot.value()?);
    if written.suffix().is_empty() {
        return Some(());
    }
    let digits = written.base10_digits();
    errors.at(
        written,
        format!("`{key}` takes a number without a suffix: write `{key} = {digits}`"),
    );
    None
}

fn duration(slot: &Slot<LitStr>, errors: &mut Errors) -> Option<u64> {
    let written = slot.value()?;
    let parsed = milliseconds(&written.value()).filter(|time| *time > 0);
    if parsed.is_none() {
        let key = slot.key()?;
        errors.at(
            written,
            format!("`{key}` takes a time above zero with its unit: write `{key} = \"500ms\"`, `\"30s\"`, `\"5m\"` or `\"1h\"`"),
        );
    }
    parsed
}

fn backoff(args: &Args, errors: &mut Errors) -> Option<(u64, u64)> {
    let written = args.backoff.value()?;
    let text = written.value();
    let range = text
        .split_once("..")
        .and_then(|(min, max)| Some((milliseconds(min)?, milliseconds(max)?)));
    match range {
        Some((min, max)) if min <= max => return Some((min, max)),
        Some(_) => errors.at(
            written,
            "`backoff` takes the shorter wait first: swap the two times",
        ),
        None => errors.at(
            written,
            "`backoff` takes the shortest and the longest wait between attempts: write `backoff = \"100ms..30s\"`",
        ),
    }
    None
}

/// `100ms`, `30s`, `5m` or `1h` in milliseconds.
fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (count, unit) = text.split_at_checked(unit_at)?;
    let factor = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::{milliseconds, mistake_in_name};

    #[test]
    fn times_have_a_number_and_a_unit() {
        assert_eq!(milliseconds("100ms"), Some(100));
        assert_eq!(milliseconds(" 30 s "), Some(30_000));
        assert_eq!(milliseconds("5m"), Some(300_000));
        assert_eq!(milliseconds("1h"), Some(3_600_000));
        assert_eq!(milliseconds("30"), None);
        assert_eq!(milliseconds("s"), None);
        assert_eq!(milliseconds("1d"), None);
        assert_eq!(milliseconds("99999999999999999999h"), None);
    }

    #[test]
    fn names_are_checked_as_at_run_time() {
        assert_eq!(mistake_in_name("system.integration/users:v2@eu-1"), None);
        assert!(mistake_in_name("").is_some());
        assert!(mistake_in_name(" users").is_some());
        assert!(mistake_in_name("users model").is_some());
        let padded = mistake_in_name(" users model ").unwrap_or_default();
        assert!(padded.contains("contains ' '"), "{padded}");
        assert!(mistake_in_name(&"u".repeat(256)).is_some());
        assert_eq!(mistake_in_name(&"u".repeat(255)), None);
        let umlauts = mistake_in_name(&"ü".repeat(200)).unwrap_or_default();
        assert!(umlauts.contains("contains 'ü'"), "{umlauts}");
    }
}
