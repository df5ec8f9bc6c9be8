//! The rules of names and types in SQL.

use crate::names::snake_case;

/// The longest identifier of Postgres, in bytes.
const MAX_LENGTH: usize = 63;

/// Columns that every table has already, in Postgres or in SQLite.
const SYSTEM_COLUMNS: &[&str] = &[
    "ctid", "cmax", "cmin", "oid", "rowid", "tableoid", "xmax", "xmin", "_rowid_",
];

/// Words that are no part of a type.
const CONSTRAINTS: &[&str] = &[
    "check",
    "collate",
    "constraint",
    "default",
    "generated",
    "not",
    "null",
    "primary",
    "references",
    "unique",
];

/// What is wrong with the name of a table, which may have a schema.
pub(super) fn mistake_in_table(table: &str) -> Option<String> {
    let parts: Vec<&str> = table.split('.').collect();
    if parts.len() > 2 {
        return Some(format!(
            "the table `{table}` has more than one `.`: write `users` or `schema.users`"
        ));
    }
    // The table of version 1 is called `users_v1`.
    let longest = MAX_LENGTH - "_v1".len();
    let name = parts.last().copied().unwrap_or_default();
    if name.len() > longest {
        return Some(format!(
            "the table name has {} bytes: shorten it to {longest} or fewer, since the table of version 1 is called `{name}_v1` and Postgres cuts names after {MAX_LENGTH} bytes",
            name.len()
        ));
    }
    let is_table = |name: &str| mistake_in_table(name).is_none();
    parts
        .into_iter()
        .find_map(|part| mistake_in_identifier("table", part, is_table))
}

/// What is wrong with the name of a column.
pub(super) fn mistake_in_column(column: &str) -> Option<String> {
    if SYSTEM_COLUMNS.contains(&column) {
        return Some(format!(
            "`{column}` is a column that the database keeps for itself: give this one another name, as in `#[read_model(rename = \"{}_\")]`",
            column.trim_matches('_')
        ));
    }
    mistake_in_identifier("column", column, |name| mistake_in_column(name).is_none())
}

/// What is wrong with an identifier. A name that is suggested instead fits too.
fn mistake_in_identifier(what: &str, name: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
    if name.is_empty() {
        return Some(format!(
            "the {what} name is empty: write one of lower-case ASCII letters, digits and `_`"
        ));
    }
    if name.len() > MAX_LENGTH {
        return Some(format!(
            "the {what} name has {} bytes: shorten it to {MAX_LENGTH} or fewer",
            name.len()
        ));
    }
    if let Some(odd) = odd_character(name) {
        let lower = snake_case(name);
        let advice = if odd_character(&lower).is_none() && fits(&lower) {
            format!("write `{lower}`")
        } else {
            "use only lower-case ASCII letters, digits and `_`".to_owned()
        };
        return Some(format!(
            "the {what} name `{name}` contains {odd:?}: {advice}"
        ));
    }
    name.starts_with(|first: char| first.is_ascii_digit())
        .then(|| format!("the {what} name `{name}` begins with a digit: begin it with a letter"))
}

fn odd_character(name: &str) -> Option<char> {
    name.chars().find(|&character| {
        !(character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_')
    })
}

/// What is wrong with a type, which becomes part of SQL as it is.
pub(super) fn mistake_in_type(sql: &str) -> Option<String> {
    const EXAMPLE: &str = "write a type of your database, as in `sql_type = \"numeric(20, 2)\"`";
    if sql.trim().is_empty() {
        return Some(format!("`sql_type` is empty: {EXAMPLE}"));
    }
    if sql.contains('[') {
        return Some(
            "a column cannot be an array: remove `sql_type`, and write `Json<Vec<…>>` as the type of the field"
                .into(),
        );
    }
    let odd = sql
        .chars()
        .find(|&character| !(character.is_ascii_alphanumeric() || "_ (),.\"".contains(character)));
    if let Some(odd) = odd {
        return Some(format!("`sql_type` contains {odd:?}: {EXAMPLE}"));
    }
    let mut words = sql.split(|character: char| !character.is_ascii_alphanumeric());
    if let Some(word) = words.find(|word| CONSTRAINTS.contains(&word.to_lowercase().as_str())) {
        return Some(format!(
            "`sql_type` takes the type alone: remove `{word}`, since only an `Option` may be null"
        ));
    }
    if !is_balanced(sql) {
        return Some(format!(
            "the brackets or quotes of `sql_type` do not match: {EXAMPLE}"
        ));
    }
    // Last, since the trimmed type must be one that is accepted.
    let trimmed = sql.trim();
    (trimmed != sql)
        .then(|| format!("`sql_type` has white space around it: write `sql_type = \"{trimmed}\"`"))
}

fn is_balanced(sql: &str) -> bool {
    let mut open = 0_u32;
    let mut is_quoted = false;
    for character in sql.chars() {
        match character {
            '"' => is_quoted = !is_quoted,
            '(' if !is_quoted => open += 1,
            ')' if !is_quoted => match open.checked_sub(1) {
                Some(fewer) => open = fewer,
                None => return false,
            },
            _ => {}
        }
    }
    open == 0 && !is_quoted
}

/// A table for the message about a missing one: the type's name in the plural.
pub(super) fn suggested_table(snake_case: &str) -> String {
    let plural = match snake_case.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if snake_case.ends_with('s') => snake_case.to_owned(),
        _ => format!("{snake_case}s"),
    };
    if mistake_in_table(&plural).is_none() {
        plural
    } else {
        "users".into()
    }
}

#[cfg(test)]
mod tests {
    use super::{mistake_in_column, mistake_in_table, mistake_in_type, suggested_table};

    #[test]
    fn tables_are_identifiers_with_or_without_a_schema() {
        assert_eq!(mistake_in_table("users"), None);
        assert_eq!(mistake_in_table("shop.users_2"), None);
        assert_eq!(mistake_in_table(&"u".repeat(60)), None);
        for refused in [
            "", "a.b.c", "users ", "Users", "2users", ".users", "users.", "u\"s",
        ] {
            assert!(mistake_in_table(refused).is_some(), "{refused}");
        }
        assert!(mistake_in_table(&"u".repeat(61)).is_some());
        assert!(mistake_in_table(&format!("s.{}", "u".repeat(61))).is_some());
        assert!(mistake_in_table(&format!("{}.u", "s".repeat(63))).is_none());
        assert!(mistake_in_table(&format!("{}.u", "s".repeat(64))).is_some());
    }

    #[test]
    fn a_name_in_capitals_gets_its_lower_case_as_advice() {
        let mistake = mistake_in_table("UserList").unwrap_or_default();
        assert!(mistake.ends_with("write `user_list`"), "{mistake}");
        let mistake = mistake_in_column("größe").unwrap_or_default();
        assert!(mistake.contains("contains 'ö'"), "{mistake}");
    }

    #[test]
    fn a_suggested_name_obeys_the_rules_of_sql() {
        // Begins with a digit, is the database's own, and is too long once it has its `_`.
        let long = format!("{}Name", "u".repeat(59));
        let suggests = |mistake: Option<String>| mistake.is_some_and(|one| one.contains("write `"));
        assert!(!suggests(mistake_in_column("2Users")));
        assert!(!suggests(mistake_in_column("XMIN")));
        assert!(!suggests(mistake_in_column(&long)));
        assert!(!suggests(mistake_in_table("2Users")));
        let long = format!("{}A", "u".repeat(59));
        assert!(!suggests(mistake_in_table(&long)));
        let trimmed = "write `sql_type = \"text";
        let suggests = |mistake: Option<String>| mistake.is_some_and(|one| one.contains(trimmed));
        assert!(!suggests(mistake_in_type(" text[] ")));
        assert!(suggests(mistake_in_type(" text ")));
    }

    #[test]
    fn columns_of_the_database_are_refused() {
        assert_eq!(mistake_in_column("order"), None);
        assert_eq!(mistake_in_column("_internal"), None);
        for refused in ["xmin", "rowid", "_rowid_", "ctid"] {
            assert!(mistake_in_column(refused).is_some(), "{refused}");
        }
    }

    #[test]
    fn a_sql_type_is_a_type_and_nothing_else() {
        for type_name in [
            "numeric(20, 2)",
            "double precision",
            "shop.\"Status\"",
            "interval",
        ] {
            assert_eq!(mistake_in_type(type_name), None, "{type_name}");
        }
        for refused in [
            "",
            " numeric",
            "numeric NOT NULL",
            "text; DROP TABLE users",
            "text[]",
            "numeric(20",
            "numeric)20(",
            "\"Status",
            "text 'x'",
        ] {
            assert!(mistake_in_type(refused).is_some(), "{refused}");
        }
    }

    #[test]
    fn a_suggested_table_is_a_plural() {
        assert_eq!(suggested_table("user"), "users");
        assert_eq!(suggested_table("category"), "categories");
        assert_eq!(suggested_table("status"), "status");
        assert_eq!(suggested_table("day"), "days");
        assert_eq!(suggested_table("größe"), "users");
    }
}
