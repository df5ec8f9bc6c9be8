//! How the columns of the log appear in statements.
//!
//! What a client sends is cast to the type of a column, never the column, so that its indexes are used.
//! What the server returns is cast only where no row can make that fail: one that cannot be decoded must
//! not fail the read of the others.

use super::Schema;
use super::column::{Column, Source, SqlType};
use super::dialect::Dialect;

/// The columns that an append fills in, unless the table lacks them. The time too: a table that exists need
/// not have a default, or one without a time zone may have a time of the session's zone.
const APPENDED: [Column; 12] = [
    Column::AggregateType,
    Column::AggregateId,
    Column::AggregateVersion,
    Column::EventId,
    Column::EventType,
    Column::EventVersion,
    Column::Payload,
    Column::TraceId,
    Column::CorrelationId,
    Column::CausationId,
    Column::Metadata,
    Column::CreatedAt,
];

/// Fills in what a statement says of the columns of the log:
///
/// - `{columns}`: all of them, decoded, under their aliases;
/// - `{found columns}`: all of them as they are in the table, under their aliases, and
///   `{decoded columns}`: the same from a query around it;
/// - `{size}`: about how many bytes the columns that were found have;
/// - `{value of payload}` and so on: one of them, decoded;
/// - `{aggregate}`: the condition on the aggregate of type `$1` and id `$2`, `{id}`: the latter, and
///   `{id of row}`: the id of a row of `wanted`;
/// - `{head aggregate_id}` and so on: columns of the table of heads, `{head aggregate}`: the same
///   condition there;
/// - `{inserted columns}` and `{inserted values}`: what an append fills in;
/// - `{new payload}` and so on: the assignment of `$2` to one of them.
pub(super) fn column_word(schema: &Schema, dialect: &Dialect, key: &str) -> Option<String> {
    let columns = Columns { schema, dialect };
    Some(match key {
        "columns" => list(Column::ALL, |column| columns.decoded(column)),
        "found columns" => list(Column::ALL, |column| {
            format!("{} AS {}", schema.in_table(column), alias(column))
        }),
        "decoded columns" => list(Column::ALL, |column| {
            let value = columns.value(column, &alias(column));
            format!("{value} AS {}", alias(column))
        }),
        "size" => columns.size(),
        "aggregate" => columns.aggregate(),
        "id" => columns.id("$2"),
        "id of row" => columns.id("wanted.aggregate_id"),
        "head aggregate" => format!(
            "{} = $1 AND {} = {}",
            head(schema, Column::AggregateType),
            head(schema, Column::AggregateId),
            columns.id("$2")
        ),
        "inserted columns" => list(appended(schema), |column| schema.in_table(column)),
        "inserted values" => list(appended(schema), |column| columns.inserted(column)),
        _ => return one(columns, key),
    })
}

/// The SQL of one key of one column.
fn one(columns: Columns<'_>, key: &str) -> Option<String> {
    if let Some(column) = key.strip_prefix("value of ").and_then(Column::called) {
        return Some(columns.value(column, &columns.schema.in_table(column)));
    }
    if let Some(column) = key.strip_prefix("new ").and_then(Column::called) {
        return Some(columns.assigned(column));
    }
    let column = key.strip_prefix("head ").and_then(Column::called)?;
    Some(head(columns.schema, column))
}

/// The columns that an append fills in, in the order of its values.
pub(super) fn appended(schema: &Schema) -> impl Iterator<Item = Column> {
    APPENDED.into_iter().filter(|column| schema.has(*column))
}

fn list(columns: impl IntoIterator<Item = Column>, item: impl Fn(Column) -> String) -> String {
    let items: Vec<String> = columns.into_iter().map(item).collect();
    items.join(", ")
}

/// No mapped column can have a name with a `$`.
fn alias(column: Column) -> String {
    format!("\"${}\"", column.name())
}

/// A column of the table of heads, which has one also where the table of events lacks it.
fn head(schema: &Schema, column: Column) -> String {
    format!("\"{}\"", schema.column_name(column))
}

#[derive(Clone, Copy)]
struct Columns<'a> {
    schema: &'a Schema,
    dialect: &'a Dialect,
}

impl Columns<'_> {
    /// A value as it is decoded.
    fn value(self, column: Column, operand: &str) -> String {
        match self.schema.source(column) {
            Some(Source::Column(_) | Source::Expression(_)) => {
                let value = (self.dialect.value)(column, self.schema.type_of(column));
                value.replace('$', operand)
            }
            _ => operand.to_owned(),
        }
    }

    /// Qualified, since SQLite takes a quoted name that is not a column for a string.
    fn decoded(self, column: Column) -> String {
        let mut operand = self.schema.in_table(column);
        if matches!(self.schema.source(column), Some(Source::Column(_))) {
            operand = format!("{}.{operand}", self.schema.lookup("events"));
        }
        format!("{} AS {}", self.value(column, &operand), alias(column))
    }

    /// `octet_length` of `bytea` and text needs no read of values stored out of line. Of the other types
    /// only the stored size is known this way.
    fn size(self) -> String {
        use Column::{
            AggregateId, AggregateType, CausationId, CorrelationId, EventType, Metadata, Payload,
            TraceId,
        };
        let counted = [
            Payload,
            Metadata,
            AggregateType,
            AggregateId,
            EventType,
            TraceId,
            CorrelationId,
            CausationId,
        ];
        let sizes = counted.map(|column| {
            let is_missing = matches!(self.schema.source(column), Some(Source::Missing));
            let function = match self.schema.type_of(column) {
                SqlType::Text | SqlType::Bytea => "octet_length",
                _ if is_missing => "octet_length",
                _ => "pg_column_size",
            };
            format!("coalesce({function}({}), 0)", alias(column))
        });
        sizes.join(" + ")
    }

    fn aggregate(self) -> String {
        if let Some(condition) = self.schema.aggregate_override() {
            return condition.to_owned();
        }
        format!(
            "{} = $1 AND {} = {}",
            self.schema.in_table(Column::AggregateType),
            self.schema.in_table(Column::AggregateId),
            self.id("$2")
        )
    }

    fn id(self, operand: &str) -> String {
        (self.dialect.id)(self.schema.type_of(Column::AggregateId)).replace('$', operand)
    }

    fn assigned(self, column: Column) -> String {
        let value = (self.dialect.inserted)(column, self.schema.type_of(column));
        format!(
            "{} = {}",
            self.schema.in_table(column),
            value.replace('$', "$2")
        )
    }

    fn inserted(self, column: Column) -> String {
        let value = match column {
            Column::AggregateType => "$1",
            Column::AggregateId => return self.id("$2"),
            Column::AggregateVersion => "head.base + new.ordinal",
            Column::CreatedAt => "now()",
            _ => &format!("new.{}", column.name()),
        };
        (self.dialect.inserted)(column, self.schema.type_of(column)).replace('$', value)
    }
}
