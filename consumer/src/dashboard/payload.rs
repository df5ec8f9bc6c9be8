//! Payloads and metadata as people read them, whatever they contain.

use std::fmt::Write as _;

use serde::de::IgnoredAny;

/// More is only shown in a download.
const MOST_SHOWN: usize = 64 * 1024;

/// The number of bytes shown if they are not text.
const MOST_DUMPED: usize = 1024;

/// Bytes as human-readable text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) kind: Kind,
    /// Whether there is more.
    pub(super) is_cut: bool,
}

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Text,
    Bytes,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Text => "text",
            Self::Bytes => "bytes that are not text",
        }
    }
}

/// Renders bytes as indented JSON, as text, or as a dump.
pub(super) fn show(bytes: &[u8]) -> Shown {
    let head = bytes.get(..MOST_SHOWN).unwrap_or(bytes);
    let is_cut = head.len() < bytes.len();
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut may have gone through a character.
        Err(error) if is_cut && error.error_len().is_none() => {
            let valid = head.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(valid).unwrap_or_default()
        }
        Err(_) => return dump(bytes),
    };
    if !is_cut && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return cut(indented(text), Kind::Json);
    }
    Shown {
        text: text.to_owned(),
        kind: Kind::Text,
        is_cut,
    }
}

/// Indentation may have made it too long.
fn cut(mut text: String, kind: Kind) -> Shown {
    let is_cut = text.len() > MOST_SHOWN;
    if is_cut {
        text.truncate(text.floor_char_boundary(MOST_SHOWN));
    }
    Shown { text, kind, is_cut }
}

/// JSON with its members on lines of their own. All values stay as they are written.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut is_escaped = false;
    let mut chars = json.chars().peekable();
    while let Some(char) = chars.next() {
        if in_string {
            out.push(char);
            in_string = is_escaped || char != '"';
            is_escaped = !is_escaped && char == '\\';
            continue;
        }
        match char {
            '"' => {
                in_string = true;
                out.push(char);
            }
            '{' | '[' => {
                out.push(char);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(char);
            }
            ',' => {
                out.push(char);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            space if space.is_ascii_whitespace() => {}
            other => out.push(other),
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// The first bytes, in hexadecimal and as far as they are ASCII.
fn dump(bytes: &[u8]) -> Shown {
    let mut text = String::new();
    let head = bytes.get(..MOST_DUMPED).unwrap_or(bytes);
    for (line, row) in head.chunks(16).enumerate() {
        let _ = write!(text, "{:06x} ", line * 16);
        for byte in row {
            let _ = write!(text, " {byte:02x}");
        }
        text.extend(std::iter::repeat_n("   ", 16 - row.len()));
        text.push_str("  ");
        text.extend(row.iter().map(|&byte| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '.',
        }));
        text.push('\n');
    }
    Shown {
        text,
        kind: Kind::Bytes,
        is_cut: head.len() < bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, MOST_SHOWN, show};

    #[test]
    fn json_is_indented_and_every_value_stays() {
        let shown =
            show(br#" {"b":1.50,"a":[1,{"x" : "a,b:{\"}"}], "e":{ },"n":12345678901234567890123}"#);
        assert_eq!(shown.kind, Kind::Json);
        let expected = "{\n  \"b\": 1.50,\n  \"a\": [\n    1,\n    {\n      \"x\": \"a,b:{\\\"}\"\n    }\n  ],\n  \"e\": {},\n  \"n\": 12345678901234567890123\n}";
        assert_eq!(shown.text, expected);
    }

    #[test]
    fn text_is_cut_between_characters() {
        let text = format!("a{}", "é".repeat(MOST_SHOWN));
        let shown = show(text.as_bytes());
        assert!(shown.is_cut && shown.kind == Kind::Text);
        assert!(text.starts_with(&shown.text) && shown.text.len() > MOST_SHOWN - 2);
    }

    #[test]
    fn bytes_that_are_no_text_are_dumped() {
        let shown = show(b"ab\xff\x00");
        assert_eq!(shown.kind, Kind::Bytes);
        assert!(
            shown.text.starts_with("000000  61 62 ff 00 "),
            "{}",
            shown.text
        );
        assert!(shown.text.ends_with("  ab..\n"), "{}", shown.text);
    }

    #[test]
    fn json_that_indentation_makes_too_long_is_cut() {
        let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
        let wide = format!("[{}1]", format!("{deep},").repeat(20));
        let shown = show(wide.as_bytes());
        assert!(shown.text.len() <= MOST_SHOWN);
        assert!(shown.is_cut);
    }
}
