//! The lists of derives that the source has above a derive, which the compiler does not pass to it.

use proc_macro2::TokenStream;

use crate::keys;

/// The list around the derive at a line and a column, both of which start at 1, and the lists above on the
/// same item. `None` if it is in no list, as with a derive that another macro wrote.
pub(super) fn lists_at(source: &str, line: usize, column: usize) -> Option<Vec<TokenStream>> {
    let code = code_of(source);
    let before = before(&code, line, column)?;
    let open = last_open(before)?;
    let (item, list) = code.split_at_checked(open)?;
    if !item.trim_end().ends_with(keys::DERIVE) {
        return None;
    }
    let mut lists = vec![contents(list)?];
    let mut above = before_attribute(item)?;
    while let Some((before, attribute)) = last_attribute(above) {
        lists.extend(attribute.strip_prefix(keys::DERIVE).and_then(contents));
        above = before;
    }
    Some(lists)
}

fn before(code: &str, line: usize, column: usize) -> Option<&str> {
    let lines = code.split_inclusive('\n');
    let start: usize = lines.take(line.checked_sub(1)?).map(str::len).sum();
    let mut characters = code.get(start..)?.char_indices();
    let (in_line, _) = characters.nth(column.checked_sub(1)?)?;
    code.get(..start + in_line)
}

/// What is in the parentheses that a text begins with.
fn contents(text: &str) -> Option<TokenStream> {
    let (list, _) = text.trim_start().strip_prefix('(')?.split_once(')')?;
    list.parse().ok()
}

/// What is before the attribute in which a text ends. A `cfg_attr` has parentheses of its own.
fn before_attribute(text: &str) -> Option<&str> {
    let (before, inside) = text.split_at_checked(last_open(text)?)?;
    if inside.starts_with('(') {
        return before_attribute(before);
    }
    before_sign(before, inside)
}

/// The attribute in which a text ends, without its brackets, and what is before it.
fn last_attribute(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_end().strip_suffix(']')?;
    let (before, attribute) = text.split_at_checked(last_open(text)?)?;
    let before = before_sign(before, attribute)?;
    Some((before, attribute.strip_prefix('[')?.trim_start()))
}

/// What is before the `#` of an attribute.
fn before_sign<'a>(before: &'a str, attribute: &str) -> Option<&'a str> {
    let before = before.trim_end().strip_suffix('#')?;
    attribute.starts_with('[').then_some(before)
}

/// The place of the last bracket that a text does not close.
fn last_open(text: &str) -> Option<usize> {
    let mut closed = 0_usize;
    for (place, character) in text.char_indices().rev() {
        match character {
            ')' | ']' | '}' => closed += 1,
            '(' | '[' | '{' if closed == 0 => return Some(place),
            '(' | '[' | '{' => closed -= 1,
            _ => {}
        }
    }
    None
}

/// The source with a space for each character of its comments and literals, which may contain brackets.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        let hidden = hidden(rest);
        let length = hidden.unwrap_or_else(|| word(rest));
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        code.extend(token.chars().map(|character| match character {
            '\n' => '\n',
            _ if hidden.is_some() => ' ',
            _ => character,
        }));
        rest = after;
    }
    code
}

/// The length of the word or the character that a text begins with.
fn word(text: &str) -> usize {
    let is_other = |character: char| !character.is_alphanumeric() && character != '_';
    match text.find(is_other).unwrap_or(text.len()) {
        0 => text.chars().next().map_or(0, char::len_utf8),
        length => length,
    }
}

/// The length of the comment or literal that a text begins with.
fn hidden(text: &str) -> Option<usize> {
    match text.chars().next()? {
        '/' if text.starts_with("//") => Some(text.find('\n').unwrap_or(text.len())),
        '/' if text.starts_with("/*") => Some(block_comment(text)),
        '"' => Some(quoted(text)),
        '\'' if !is_lifetime(text) => Some(quoted(text)),
        'r' | 'b' | 'c' => raw_string(text),
        _ => None,
    }
}

/// One comment may contain others.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut rest = text;
    loop {
        if let Some(inside) = rest.strip_prefix("/*") {
            depth += 1;
            rest = inside;
        } else if let Some(after) = rest.strip_prefix("*/") {
            depth -= 1;
            rest = after;
        } else {
            let mut characters = rest.chars();
            characters.next();
            rest = characters.as_str();
        }
        if depth == 0 || rest.is_empty() {
            return text.len() - rest.len();
        }
    }
}

fn is_lifetime(text: &str) -> bool {
    let mut characters = text.chars().skip(1);
    characters.next() != Some('\\') && characters.next() != Some('\'')
}

fn quoted(text: &str) -> usize {
    let quote = text.chars().next();
    let mut is_escaped = false;
    for (place, character) in text.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if character == '\\' {
            is_escaped = true;
        } else if Some(character) == quote {
            return place + 1;
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let after = text.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let inside = after.trim_start_matches('#').strip_prefix('"')?;
    let hashes = "#".repeat(after.len() - inside.len() - 1);
    let end = inside.find(&format!("\"{hashes}"));
    Some(end.map_or(text.len(), |end| {
        text.len() - inside.len() + end + 1 + hashes.len()
    }))
}

#[cfg(test)]
mod tests {
    use super::{code_of, lists_at};

    /// The lists at the place of the only `ReadModel` of a source, as text.
    fn lists(source: &str) -> Option<Vec<String>> {
        let (before, _) = source.split_once("ReadModel")?;
        let line = before.matches('\n').count() + 1;
        let in_line = before.rsplit('\n').next()?;
        let lists = lists_at(source, line, in_line.chars().count() + 1)?;
        Some(lists.iter().map(ToString::to_string).collect())
    }

    fn assert_lists(source: &str, expected: &[&str]) {
        let lists = lists(source);
        let found: Option<Vec<_>> = lists
            .as_ref()
            .map(|all| all.iter().map(|one| &**one).collect());
        assert_eq!(found.as_deref(), Some(expected), "{source}");
    }

    #[test]
    fn the_own_list_is_read_without_its_comments() {
        assert_lists(
            "use ü;\n#[derive(ü::Debug, // FromRow\n /* ) */ ReadModel, sqlx::FromRow)]\nstruct A;",
            &["ü :: Debug , ReadModel , sqlx :: FromRow"],
        );
        assert_lists(
            "#[derive(derive_more::Display, ReadModel)]",
            &["derive_more :: Display , ReadModel"],
        );
        assert_lists("#[cfg_attr(all(), derive(ReadModel))]", &["ReadModel"]);
    }

    #[test]
    fn the_lists_above_are_those_of_the_same_item() {
        let between = [
            "\n",
            "\n\n/// it's `#[derive(Doc)]`)\n",
            "// #[derive(Comment)]\n",
            "/* ] /* [ */ { */",
            "#[doc = \"] #[derive(Text)]\"]",
            "#[doc = r#\"\"] \"#]",
            "#[cfg_attr(any(), derive(Never))]",
            "#[read_model(table = \"users\")]\n# [ quote('\"', '\\'', b']', 'a) ]\n",
        ];
        for between in between {
            assert_lists(
                &format!(
                    "#[derive(Other)]\nstruct Other {{}}\n#[derive(A, B)]{between}#[derive(C)]{between}#[derive(ReadModel)] struct A;",
                ),
                &["ReadModel", "C", "A , B"],
            );
        }
        for before in [
            "#[derive(Other)] struct A;",
            "#[derive(Other)] struct A {}",
            "mod inner { #[derive(Other)] struct A; ",
            "#![allow(warnings)]",
            "const OTHER: [u8; 1] = derive![1];",
        ] {
            assert_lists(&format!("{before}\n#[derive(ReadModel)]"), &["ReadModel"]);
        }
    }

    #[test]
    fn a_place_outside_of_a_list_has_none() {
        for source in [
            "ReadModel",
            "#[derive(A)]\nReadModel! {}",
            "#[derive(A)] struct A { ReadModel",
            "#[other(ReadModel)]",
            "derive(ReadModel)",
        ] {
            assert_eq!(lists(source), None, "{source}");
        }
        let source = "#[derive(A)]\n";
        for (line, column) in [(0, 1), (1, 0), (1, 99), (2, 1), (9, 1)] {
            assert!(lists_at(source, line, column).is_none(), "{line}:{column}");
        }
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        for (source, code) in [
            ("a // b\nc", "a     \nc"),
            ("a/*b/*ü*/c*/d", "a           d"),
            ("a/*b", "a   "),
            ("f(\"a\\\"ü\\\\\")b", "f(        )b"),
            ("\"a", "  "),
            ("['[', '\\'', b'\\\\', 'ü']", "[   ,     , b    ,    ]"),
            ("<'a, 'b>", "<'a, 'b>"),
            ("r\"\\\"b", "    b"),
            ("br##\"a\"#\"##b", "           b"),
            ("cr\"a", "    "),
            ("r#type bar b c r", "r#type bar b c r"),
        ] {
            assert_eq!(code_of(source), code, "{source}");
        }
    }
}
