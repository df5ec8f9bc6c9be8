//! Differences between the table of events and its mapping, each with the line that removes it.

use std::fmt;

use super::column::{Column, SqlType};

/// A difference between the table of events and its [`Schema`](crate::Schema), as
/// [`StoreError::Mismatches`](crate::StoreError::Mismatches) lists them.
///
/// Its text ends with the [`remedy`](Self::remedy), a line for the mapping or a statement for the owner of
/// the table:
///
/// ```
/// use consumer::{Column, Mismatch, SqlType};
///
/// let mismatch = Mismatch::OtherType {
///     column: Column::AggregateId,
///     name: "order_id".into(),
///     found: SqlType::Uuid,
/// };
/// assert_eq!(mismatch.remedy(), ".sql_type(Column::AggregateId, SqlType::Uuid)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// The table has no column of the name that the mapping gives.
    NoColumn {
        /// The column of the mapping.
        column: Column,
        /// Its name in the mapping.
        name: String,
        /// The columns of the table that could be meant, which the mapping does not use.
        candidates: Vec<String>,
    },
    /// A column has another type than the mapping says.
    OtherType {
        /// The column of the mapping.
        column: Column,
        /// The name or the expression in the mapping.
        name: String,
        /// The type in the table.
        found: SqlType,
    },
    /// A column has a type that cannot be mapped.
    UnknownType {
        /// The column of the mapping.
        column: Column,
        /// The name or the expression in the mapping.
        name: String,
        /// The type in the table.
        found: String,
    },
    /// A column in which every event has a value can be NULL.
    Nullable {
        /// The column of the mapping.
        column: Column,
        /// Its name in the mapping.
        name: String,
        /// The table of events, if its database can change a column.
        table: Option<String>,
    },
    /// A column that the mapping does not use is NOT NULL and has no default, so no append succeeds.
    NotFilled {
        /// The name of the column.
        name: String,
        /// The table of events.
        table: String,
    },
    /// The database refuses an expression.
    Expression {
        /// The column of the mapping.
        column: Column,
        /// The expression.
        expression: String,
        /// The database's message.
        reason: String,
    },
    /// A column of the table of heads has another type than that of the events.
    HeadType {
        /// The table of heads.
        table: String,
        /// The name of the column.
        name: String,
        /// The type in the table of heads.
        found: String,
        /// The type in the table of events.
        expected: String,
    },
    /// The table of events is a view, and the log is not read-only.
    View,
    /// The table of events is a view, and the mapping does not name the sequence of its positions.
    NoSequence {
        /// The sequences from which the tables of the view draw.
        candidates: Vec<String>,
    },
    /// The rows of the relation appear at another time than that at which their positions are drawn.
    NotATable {
        /// Its kind.
        kind: &'static str,
    },
}

impl Mismatch {
    /// Whether a column of the table may be the one that is missing.
    pub(super) fn may_be(&self, name: &str) -> bool {
        match self {
            Self::NoColumn { candidates, .. } => candidates.iter().any(|other| other == name),
            _ => false,
        }
    }

    /// Returns the line to add to the mapping, or the statement for the owner of the table.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::NoColumn {
                column, candidates, ..
            } => missing(*column, candidates),
            Self::OtherType { column, found, .. } => {
                format!(".sql_type(Column::{column:?}, SqlType::{found:?})")
            }
            Self::UnknownType {
                column,
                name,
                found,
            } => unknown(*column, &in_sql(name), found),
            Self::Nullable { name, table, .. } => match table {
                Some(table) => format!(
                    "ALTER TABLE {} ALTER {} SET NOT NULL",
                    in_sql(table),
                    in_sql(name)
                ),
                None => format!("CREATE TABLE … ({} … NOT NULL)", in_sql(name)),
            },
            Self::NotFilled { name, table } => format!(
                "ALTER TABLE {} ALTER {} SET DEFAULT …",
                in_sql(table),
                in_sql(name)
            ),
            Self::Expression { column, .. } => format!(r#".expression(Column::{column:?}, "…")"#),
            Self::HeadType {
                table,
                name,
                expected,
                ..
            } => {
                let (table, name) = (in_sql(table), in_sql(name));
                format!("ALTER TABLE {table} ALTER {name} TYPE {expected} USING {name}::{expected}")
            }
            Self::View => ".read_only()".to_owned(),
            Self::NoSequence { candidates } => {
                format!(r#".sequence("{}")"#, only(candidates).unwrap_or("…"))
            }
            Self::NotATable { .. } => r#".events("…")"#.to_owned(),
        }
    }
}

/// The line for a column that the table does not have under its name.
fn missing(column: Column, candidates: &[String]) -> String {
    match only(candidates) {
        _ if column.is_optional() => format!(".without(Column::{column:?})"),
        Some(name) => format!(r#".column(Column::{column:?}, "{name}")"#),
        None if matches!(column, Column::EventVersion) => {
            format!(".constant(Column::{column:?}, 1)")
        }
        None => format!(r#".column(Column::{column:?}, "…")"#),
    }
}

/// The line for a column whose type cannot be mapped.
fn unknown(column: Column, name: &str, found: &str) -> String {
    let expression = match (column, found) {
        (Column::GlobalPosition, _) => {
            return format!("ALTER TABLE … ALTER {name} TYPE bigint");
        }
        // Milliseconds since 1970, which is the most common.
        (Column::CreatedAt, "bigint") => format!("to_timestamp({name} / 1000.0)"),
        _ => format!("({name})::{}", column.default_type().sql_name()),
    };
    format!(".expression(Column::{column:?}, {expression:?}).read_only()")
}

/// The only one of these names.
fn only(names: &[String]) -> Option<&str> {
    match names {
        [name] => Some(name),
        _ => None,
    }
}

/// A name or an expression as it is written in SQL.
fn in_sql(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(is_plain)
        || !name
            .chars()
            .all(|c| c.is_alphanumeric() || " _-".contains(c))
    {
        name.to_owned()
    } else {
        format!("\"{name}\"")
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColumn {
                column,
                name,
                candidates,
            } => {
                write!(f, "there is no column `{name}` for {}", column.name())?;
                let is_named = !column.is_optional() && only(candidates).is_some();
                if !candidates.is_empty() && !is_named {
                    write!(f, " (it may be `{}`)", candidates.join("` or `"))?;
                }
            }
            Self::OtherType {
                column,
                name,
                found,
            } => write!(
                f,
                "{} (`{name}`) is of type {}",
                column.name(),
                found.sql_name()
            )?,
            Self::UnknownType {
                column,
                name,
                found,
            } => write!(
                f,
                "{} (`{name}`) is of type {found}, which cannot be mapped as it is",
                column.name()
            )?,
            Self::Nullable { column, name, .. } => write!(
                f,
                "{} (`{name}`) can be NULL, and a row without a value cannot be an event",
                column.name()
            )?,
            Self::NotFilled { name, .. } => write!(
                f,
                "an append gives `{name}` no value, and it is NOT NULL without a default"
            )?,
            Self::Expression {
                column,
                expression,
                reason,
            } => write!(
                f,
                "the expression `{expression}` for {} is refused ({reason})",
                column.name()
            )?,
            Self::HeadType {
                table,
                name,
                found,
                expected,
            } => write!(
                f,
                "`{name}` of the heads in `{table}` is of type {found}, and that of the events is {expected}"
            )?,
            Self::View => f.write_str("it is a view, to which events cannot be appended")?,
            Self::NoSequence { candidates } => {
                f.write_str("it is a view, which does not show the sequence of its positions")?;
                if candidates.len() > 1 {
                    write!(
                        f,
                        " (its tables draw from `{}`, and must draw from one)",
                        candidates.join("`, `")
                    )?;
                }
            }
            Self::NotATable { kind } => write!(
                f,
                "it is a {kind}, whose rows appear at another time than that at which their positions are drawn"
            )?,
        }
        write!(f, ": write `{}`", self.remedy())
    }
}
