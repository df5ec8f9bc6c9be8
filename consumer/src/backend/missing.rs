//! The lines for columns that the table of events lacks.

use super::Schema;
use super::column::{Column, Source, SqlType, in_sql};
use super::mismatch::only;

/// How a database gets a value for a column that a table lacks. In the texts, `$table`, `$name` and
/// `$position` stand for names.
pub(super) struct Substitutes {
    /// The rest of an `ALTER TABLE $table ADD COLUMN $name`, and of what follows it.
    pub(super) added: fn(Column, SqlType) -> String,
    /// An expression for a log whose table is not to be changed.
    pub(super) computed: fn(Column) -> Option<&'static str>,
}

/// What is known of a table that lacks a column.
pub(super) struct Lacking<'a> {
    pub(super) schema: &'a Schema,
    /// The columns that have a type for a column of the mapping, and that the mapping does not use.
    pub(super) candidates: &'a (dyn Fn(Column) -> Vec<String> + Sync),
    /// Whether the table has the column of the mapping.
    pub(super) has: &'a (dyn Fn(Column) -> bool + Sync),
    /// Whether columns can be added to it.
    pub(super) is_table: bool,
}

impl Lacking<'_> {
    /// The line for a column that the table does not have under its name.
    pub(super) fn line(&self, column: Column, with: &Substitutes) -> String {
        let candidates = (self.candidates)(column);
        let named = |name: &str| format!(r#".column(Column::{column:?}, "{name}")"#);
        let events = self.schema.events_name();
        match only(&candidates) {
            _ if column.is_optional() => format!(".without(Column::{column:?})"),
            Some(name) => named(name),
            None if column == Column::EventVersion => ".constant(Column::EventVersion, 1)".into(),
            None if !candidates.is_empty() => named("…"),
            None if matches!(column, Column::AggregateType | Column::EventType) => {
                format!(".constant(Column::{column:?}, {events:?})")
            }
            None => match (with.computed)(column) {
                Some(expression) if self.schema.is_read_only() => {
                    let expression = self.filled_in(column, expression);
                    format!(".expression(Column::{column:?}, {expression:?})")
                }
                _ if self.is_table => {
                    let added = (with.added)(column, self.schema.type_of(column));
                    self.filled_in(column, &added)
                }
                _ => named("…"),
            },
        }
    }

    fn filled_in(&self, column: Column, text: &str) -> String {
        let position = self.own(Column::GlobalPosition);
        let text = text
            .replace("$versions", &self.versions(column))
            .replace("$table", &in_sql(&self.schema.log_name()))
            .replace("$name", &in_sql(self.schema.column_name(column)));
        text.replace("$position", &position.unwrap_or_default())
    }

    /// Counts the events of an aggregate from 1.
    fn versions(&self, version: Column) -> String {
        let of_aggregate = [Column::AggregateType, Column::AggregateId]
            .into_iter()
            .filter_map(|column| self.own(column))
            .map(|name| format!("e.{name} = $table.{name} AND "));
        let of_aggregate: Vec<String> = of_aggregate.collect();
        let name = in_sql(self.schema.column_name(version));
        format!(
            "UPDATE $table SET {name} = (SELECT count(*) FROM $table AS e WHERE {}e.$position <= $table.$position)",
            of_aggregate.concat()
        )
    }

    /// The name of a column that the table has, or that its line names or adds.
    fn own(&self, column: Column) -> Option<String> {
        if !matches!(self.schema.source(column), Some(Source::Column(_))) {
            return None;
        }
        let candidates = (self.candidates)(column);
        let is_constant = column == Column::AggregateType;
        match only(&candidates) {
            _ if (self.has)(column) => Some(in_sql(self.schema.column_name(column))),
            Some(name) => Some(in_sql(name)),
            None if is_constant => None,
            None => Some(in_sql(self.schema.column_name(column))),
        }
    }
}
