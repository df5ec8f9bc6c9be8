//! Differences between the table of events and its mapping, each with the line that removes it.

use std::fmt;

use super::column::{Column, SqlType, in_sql};
#[cfg(feature = "worker")]
use super::log_problem::LogProblem;

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
        /// The line to write: a line of the mapping, or statements for the owner of the table.
        line: String,
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
        /// The table of events.
        table: String,
    },
    /// A column in which every event has a value can be NULL.
    Nullable {
        /// The column of the mapping.
        column: Column,
        /// Its name in the mapping.
        name: String,
        /// The table of events.
        table: String,
        /// Whether the database can change a column, which SQLite cannot.
        can_alter: bool,
    },
    /// A column that the mapping does not use is NOT NULL and has no default, so no append succeeds.
    NotFilled {
        /// The name of the column.
        name: String,
        /// The table of events.
        table: String,
        /// Whether the database can change a column, which SQLite cannot.
        can_alter: bool,
    },
    /// The SQLite table gives the positions of deleted events to new ones.
    NoAutoincrement {
        /// The table of events.
        table: String,
        /// The column of positions.
        column: String,
    },
    /// The log is not one that a worker could read without losing events. Postgres only, and only with the
    /// feature `worker`.
    #[cfg(feature = "worker")]
    Log(LogProblem),
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

    /// Whether one of these says the same of the column of positions, and more.
    pub(super) fn is_part_of(&self, others: &[Self]) -> bool {
        let Self::NotFilled { name, .. } = self else {
            return false;
        };
        others.iter().any(|other| match other {
            Self::NoAutoincrement { column, .. } => column.eq_ignore_ascii_case(name),
            #[cfg(feature = "worker")]
            Self::Log(LogProblem::NoSequence { column, .. }) => column == name,
            _ => false,
        })
    }

    /// The only column of the table that may be the one that is missing.
    pub(super) fn only_candidate(&self) -> Option<&str> {
        match self {
            Self::NoColumn { candidates, .. } => only(candidates),
            _ => None,
        }
    }

    /// Returns the line to add to the mapping, or the statements for the owner of the table.
    ///
    /// An ellipsis stands for what only the owner knows: which of several columns is meant, the value of
    /// a column in new events, or, on SQLite, the rest of the definition of a table that has to be made
    /// anew. Run several statements in one transaction.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::NoColumn { line, .. } => line.clone(),
            Self::OtherType { column, found, .. } => {
                format!(".sql_type(Column::{column:?}, SqlType::{found:?})")
            }
            Self::UnknownType {
                column,
                name,
                found,
                table,
            } => unknown(*column, &in_sql(name), found, &in_sql(table)),
            Self::Nullable {
                name,
                table,
                can_alter,
                ..
            } => altered(table, name, *can_alter, "SET NOT NULL", "NOT NULL"),
            Self::NotFilled {
                name,
                table,
                can_alter,
            } => altered(table, name, *can_alter, "SET DEFAULT …", "DEFAULT …"),
            Self::NoAutoincrement { table, column } => {
                let column = in_sql(column);
                made_anew(
                    table,
                    &format!("{column} INTEGER PRIMARY KEY AUTOINCREMENT"),
                )
            }
            #[cfg(feature = "worker")]
            Self::Log(problem) => problem.remedy(),
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

/// Changes a column, with `change`, or makes the table anew where the database cannot change one.
fn altered(table: &str, name: &str, can_alter: bool, change: &str, constraint: &str) -> String {
    let name = in_sql(name);
    if can_alter {
        format!("ALTER TABLE {} ALTER {name} {change}", in_sql(table))
    } else {
        made_anew(table, &format!("{name} … {constraint}"))
    }
}

/// Makes a table of SQLite anew, as its documentation says, with this definition of one column.
fn made_anew(table: &str, column: &str) -> String {
    let (new, table) = (in_sql(&format!("new_{table}")), in_sql(table));
    format!(
        "CREATE TABLE {new} (…, {column}, …); INSERT INTO {new} SELECT * FROM {table}; DROP TABLE {table}; ALTER TABLE {new} RENAME TO {table}"
    )
}

/// The line for a column whose type cannot be mapped.
fn unknown(column: Column, name: &str, found: &str, table: &str) -> String {
    let expression = match (column, found) {
        (Column::GlobalPosition, _) => {
            return format!("ALTER TABLE {table} ALTER {name} TYPE bigint");
        }
        // Milliseconds since 1970, which is the most common.
        (Column::CreatedAt, "bigint") => format!("to_timestamp({name} / 1000.0)"),
        _ => format!("({name})::{}", column.default_type().sql_name()),
    };
    format!(".expression(Column::{column:?}, {expression:?}).read_only()")
}

/// The only one of these names.
pub(super) fn only(names: &[String]) -> Option<&str> {
    match names {
        [name] => Some(name),
        _ => None,
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColumn {
                column,
                name,
                candidates,
                ..
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
                ..
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
            Self::NoAutoincrement { column, .. } => write!(
                f,
                "column `{column}` is not `INTEGER PRIMARY KEY AUTOINCREMENT`, so SQLite would give the position of a deleted event to a new one, which consumers that have passed it would never see"
            )?,
            // It says what to do itself.
            #[cfg(feature = "worker")]
            Self::Log(problem) => return problem.fmt(f),
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
