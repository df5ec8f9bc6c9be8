//! The words of a dialect, and how they are filled into templates.

use super::column::{Column, SqlType};

/// The parts in which SQL that both databases share differs; `$` stands for the argument of a part.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// `{now}`: the present time, in the type of the library's columns.
    pub(crate) now: &'static str,
    /// `{ms since $}`: how long ago a time in the library's tables was, in milliseconds.
    pub(crate) ms_since: &'static str,
    /// `{ms until $}`: how long it is until then, in milliseconds.
    pub(crate) ms_until: &'static str,
    /// `{in $ ms}`: the time that many milliseconds from now.
    pub(crate) in_ms: &'static str,
    /// `{event age}`: how long ago an event was stored, in milliseconds; NULL if its time cannot be read.
    pub(crate) event_age: &'static str,
    /// `{greatest}`: the function that returns the greatest of its arguments.
    pub(crate) greatest: &'static str,
    /// `{for update}`: the clause that locks the rows of a query.
    pub(crate) for_update: &'static str,
    /// `{for update, skip locked}`: the same, without the rows that others have locked.
    pub(crate) for_update_skip_locked: &'static str,
    /// `{indexed $}`: whether the index on the aggregates of parked events has a row.
    pub(crate) indexed: &'static str,
    /// `{message $}`: a parameter that `Driver::bind_message` has bound.
    pub(crate) message: &'static str,
    /// A value of the log, `$`, as [`LogRows`](super::log_rows::LogRows) decodes it.
    pub(crate) value: fn(Column, SqlType) -> &'static str,
    /// An aggregate id, the parameter `$`, as it is compared with the column.
    pub(crate) id: fn(SqlType) -> &'static str,
    /// A value of an append, `$`, as the column takes it.
    pub(crate) inserted: fn(Column, SqlType) -> &'static str,
}

impl Dialect {
    pub(super) fn render(&self, template: &str) -> String {
        fill_in(template, |key| self.word(key))
    }

    fn word(&self, key: &str) -> Option<String> {
        let word = match key {
            "now" => self.now,
            "event age" => self.event_age,
            "greatest" => self.greatest,
            "for update" => self.for_update,
            "for update, skip locked" => self.for_update_skip_locked,
            _ => return self.phrase(key),
        };
        Some(word.to_owned())
    }

    fn phrase(&self, key: &str) -> Option<String> {
        let phrases = [
            ("ms since ", "", self.ms_since),
            ("ms until ", "", self.ms_until),
            ("in ", " ms", self.in_ms),
            ("indexed ", "", self.indexed),
            ("message ", "", self.message),
        ];
        phrases.into_iter().find_map(|(before, after, phrase)| {
            let applied_to = key.strip_prefix(before)?.strip_suffix(after)?;
            Some(phrase.replace('$', applied_to))
        })
    }
}

/// Replaces the keys of a template, each in braces, that have a value.
pub(super) fn fill_in(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(template.len() * 2);
    let mut rest = template;
    // One pass, so that a value with braces is not filled in again.
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let Some((key, behind)) = after.split_once('}') else {
            filled.push('{');
            rest = after;
            break;
        };
        match value(key) {
            Some(value) => filled.push_str(&value),
            None => filled.extend(["{", key, "}"]),
        }
        rest = behind;
    }
    filled.push_str(rest);
    filled
}
