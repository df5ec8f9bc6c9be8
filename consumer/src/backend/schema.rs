//! The mapping: the names of tables and columns, and their types.

use super::StoreError;
use super::column::{Column, Constant, Source, SqlType};
use super::dialect::fill_in;
use super::version::{KNOWN, NEEDED};

/// Maps the store to tables with other names, and to tables of another shape.
///
/// The default tables are `events` and `aggregate_heads`, found through the database's search path.
/// Names are quoted, so they are case-sensitive on Postgres; they can have at most 63 bytes, and no
/// quotes, backslashes, dollar signs or control characters.
///
/// Several logs can share a schema of Postgres or a file of SQLite. A consumer belongs to the log that it
/// has first run on, known by the name of its table of events, so the names of consumers are unique among
/// these logs. A second log needs the script of
/// [`migration_sql`](crate::EventStore::migration_sql), since the tables beside it exist already.
///
/// ```
/// use consumer::{Column, Schema};
///
/// let schema = Schema::default()
///     .database_schema("sales")
///     .events("event_log")
///     .aggregate_heads("stream_heads")
///     .column(Column::CreatedAt, "recorded_at");
/// ```
///
/// A table that exists can also have other types, lack columns, or be read-only: the guide
/// [`existing_tables`](crate::guide::existing_tables) maps one step by step.
/// [`check`](crate::EventStore::check) compares the mapping with the table and reports all
/// [mismatches](crate::Mismatch) at once, each with the line to write. A worker does so when it starts.
///
/// ```
/// use consumer::{Column, Schema, SqlType};
///
/// let schema = Schema::default()
///     .events("order_events")
///     .constant(Column::AggregateType, "Order")
///     .column(Column::AggregateId, "order_id")
///     .sql_type(Column::AggregateId, SqlType::Uuid)
///     .sql_type(Column::Payload, SqlType::Jsonb)
///     .constant(Column::EventVersion, 1)
///     .without(Column::TraceId);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    namespace: Option<String>,
    /// Where the table of events is, if not in `namespace`.
    events_namespace: Option<String>,
    /// Where the tables were found; `None` until someone has looked.
    location: Option<Location>,
    events: String,
    heads: String,
    sequence: Option<String>,
    in_search_path: bool,
    columns: [MappedColumn; Column::ALL.len()],
    is_read_only: bool,
    /// The condition on the aggregate of type `$1` and id `$2`, if not that of both columns.
    aggregate: Option<&'static str>,
    /// Whether an index on an expression for the aggregate type and the position is known to exist.
    has_scope_index: bool,
}

/// A column of the mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MappedColumn {
    source: Source,
    sql_type: SqlType,
}

impl MappedColumn {
    fn new(column: Column) -> Self {
        Self {
            source: Source::Column(column.name().to_owned()),
            sql_type: column.default_type(),
        }
    }
}

/// The database schemas in which the tables were found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(all(feature = "postgres", feature = "worker")), allow(dead_code))] // SQLite has no schemas
struct Location {
    /// The one with this library's own tables.
    own: String,
    /// The one with the table of events.
    events: String,
    /// Whether the table of events has an index on aggregate type and position.
    has_scope_index: bool,
}

impl Default for Schema {
    fn default() -> Self {
        Self {
            namespace: None,
            events_namespace: None,
            location: None,
            events: "events".to_owned(),
            heads: "aggregate_heads".to_owned(),
            sequence: None,
            in_search_path: false,
            columns: Column::ALL.map(MappedColumn::new),
            is_read_only: false,
            aggregate: None,
            has_scope_index: false,
        }
    }
}

impl Schema {
    /// Puts all tables, including this library's own, into a schema other than the first of the search
    /// path. Postgres only.
    #[must_use]
    pub fn database_schema(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// Puts the [`database_schema`](Self::database_schema) first in the `search_path` of handlers, so that
    /// one consumer writes the tables of whichever schema its worker runs on. Postgres only.
    ///
    /// It is set for each transaction of a handler and ends with it. The schemas of the connection's own
    /// `search_path` follow, as for tables that tenants share: a table that a tenant's schema lacks is
    /// found there. Tables of read models whose names give no schema are created in it too. Handlers that
    /// ignore the transaction (R5) get nothing of it.
    ///
    /// The guide [`tenants`](crate::guide::tenants) shows one schema for each tenant.
    #[must_use]
    pub fn in_search_path(mut self) -> Self {
        self.in_search_path = true;
        self
    }

    /// Names the database schema of the table of events, where it is not that of this library's own
    /// tables. Postgres only.
    #[must_use]
    pub fn events_schema(mut self, name: impl Into<String>) -> Self {
        self.events_namespace = Some(name.into());
        self
    }

    /// Names the table of events.
    #[must_use]
    pub fn events(mut self, table: impl Into<String>) -> Self {
        self.events = table.into();
        self
    }

    /// Names the table with the last version of each aggregate.
    #[must_use]
    pub fn aggregate_heads(mut self, table: impl Into<String>) -> Self {
        self.heads = table.into();
        self
    }

    /// Names a column.
    #[must_use]
    pub fn column(self, column: Column, name: impl Into<String>) -> Self {
        self.with_source(column, Source::Column(name.into()))
    }

    /// Sets the type of a column, or that of its [`expression`](Self::expression), where it is not the
    /// default.
    ///
    /// | column | types, the default first |
    /// |---|---|
    /// | `GlobalPosition` | `BigInt`, `Integer` |
    /// | `AggregateType`, `EventType` | `Text` |
    /// | `AggregateId` | `Text`, `Uuid`, `Integer`, `BigInt` |
    /// | `AggregateVersion` | `BigInt`, `Integer`, `Numeric` |
    /// | `EventId` | `Uuid`, `Text` |
    /// | `EventVersion` | `Integer`, `BigInt`, `Numeric` |
    /// | `Payload` | `Bytea`, `Jsonb`, `Json`, `Text`; a NULL of the JSON types is read as `{}` |
    /// | `TraceId`, `CorrelationId`, `CausationId` | `Text`, `Uuid` |
    /// | `Metadata` | `Jsonb`, `Json`, `Text` |
    /// | `CreatedAt` | `Timestamptz`, `Timestamp` in UTC |
    ///
    /// Aggregate ids are texts in a program, whatever their type in the table: `7` or
    /// `0b0c2d6e-…`, exactly as Postgres writes them. No aggregate has an id in another form, such as
    /// `007`, and an append with one is refused.
    ///
    /// SQLite has no types of columns. There, `Integer` and `BigInt` are for ids that are stored as
    /// integers, and `Text` is for payloads that other programs read as text.
    #[must_use]
    pub fn sql_type(mut self, column: Column, sql_type: SqlType) -> Self {
        if let Some(mapped) = self.columns.get_mut(column as usize) {
            mapped.sql_type = sql_type;
        }
        self
    }

    /// Declares that the table lacks a column: the trace, correlation or causation id, or the metadata.
    ///
    /// An append of an event that has a value for it is refused, since the value would be lost. The causation
    /// and correlation ids that events of handlers get automatically are left out.
    #[must_use]
    pub fn without(self, column: Column) -> Self {
        self.with_source(column, Source::Missing)
    }

    /// Gives all events the same value in a column that the table lacks: the aggregate type, the event
    /// type, or the version of the event's format.
    ///
    /// An append of an event with another value is refused.
    #[must_use]
    pub fn constant(self, column: Column, value: impl Into<Constant>) -> Self {
        self.with_source(column, Source::Constant(value.into()))
    }

    /// Computes a column from others, in a log that is [`read_only`](Self::read_only).
    ///
    /// The expression becomes part of the statements as it is, so it must be text of the program's
    /// author, never of its users. It must not fail on any row, since that fails the whole read: leave
    /// casts that can fail to [`sql_type`](Self::sql_type). For the aggregate type, an index on the
    /// expression and the position is not used. The position has to be a column.
    ///
    /// ```
    /// use consumer::{Column, Schema, SqlType};
    ///
    /// let schema = Schema::default()
    ///     .read_only()
    ///     .expression(Column::EventType, "kind::text") // of an enum type
    ///     .expression(Column::Payload, "body -> 'data'")
    ///     .sql_type(Column::Payload, SqlType::Jsonb);
    /// ```
    #[must_use]
    pub fn expression(self, column: Column, expression: impl Into<String>) -> Self {
        self.with_source(column, Source::Expression(expression.into()))
    }

    /// Says that another program appends to the log: appends are refused, there is no table of heads,
    /// and the table of events gets no index.
    ///
    /// A worker then needs no privilege on the log but SELECT on the table of events. If its role may not
    /// read the sequence of positions, it notices that the log was reset only while the log's highest
    /// position is below the settled one.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    fn with_source(mut self, column: Column, source: Source) -> Self {
        if let Some(mapped) = self.columns.get_mut(column as usize) {
            mapped.source = source;
        }
        self
    }

    /// Sets a condition on the aggregate that an index serves.
    pub(super) fn aggregate_condition(mut self, condition: &'static str) -> Self {
        self.aggregate = Some(condition);
        self
    }

    /// Says that there is an index on the expression for the aggregate type and the position.
    pub(super) fn indexed_by_type(mut self) -> Self {
        self.has_scope_index = true;
        self
    }

    /// Names the sequence that positions are drawn from, if the default of the position column is not
    /// simply `nextval` of it. Postgres only.
    ///
    /// ```
    /// use consumer::Schema;
    ///
    /// // The column's default is a function of yours that calls `nextval('event_positions')`.
    /// let schema = Schema::default().database_schema("sales").sequence("event_positions");
    /// ```
    #[must_use]
    pub fn sequence(mut self, name: impl Into<String>) -> Self {
        self.sequence = Some(name.into());
        self
    }

    /// The same tables, by the database schemas in which they were found.
    #[cfg(all(feature = "postgres", feature = "worker"))]
    pub(super) fn located(mut self, own: String, events: String, has_scope_index: bool) -> Self {
        self.location = Some(Location {
            own,
            events,
            has_scope_index,
        });
        self
    }

    /// The database schema, if one was given.
    pub(crate) fn database_schema_name(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The database schema that handlers find their tables in.
    pub(crate) fn handlers_schema(&self) -> Option<&str> {
        self.database_schema_name().filter(|_| self.in_search_path)
    }

    /// The name of the log: its table of events, with the database schema if one was given.
    pub(crate) fn log_name(&self) -> String {
        match self.events_schema_name() {
            Some(schema) => format!("{schema}.{}", self.events),
            None => self.events.clone(),
        }
    }

    /// The database schema of the table of events, if one was given.
    pub(crate) fn events_schema_name(&self) -> Option<&str> {
        self.events_namespace
            .as_deref()
            .or(self.namespace.as_deref())
    }

    /// The table of events, unquoted.
    pub(crate) fn events_name(&self) -> &str {
        &self.events
    }

    /// The table of heads, unquoted.
    pub(crate) fn heads_name(&self) -> &str {
        &self.heads
    }

    /// The sequence, if one was given: quoted, and in the database schema.
    pub(crate) fn sequence_name(&self) -> Option<String> {
        let name = self.sequence.as_deref()?;
        Some(qualified(self.events_schema_name(), name))
    }

    /// The sequence, if one was given, unquoted.
    #[cfg(feature = "postgres")]
    pub(crate) fn bare_sequence_name(&self) -> Option<&str> {
        self.sequence.as_deref()
    }

    /// The name of a column, unquoted; the default name if the table has none.
    pub(crate) fn column_name(&self, column: Column) -> &str {
        match self.source(column) {
            Some(Source::Column(name)) => name,
            _ => column.name(),
        }
    }

    /// Where the value of a column comes from.
    pub(super) fn source(&self, column: Column) -> Option<&Source> {
        self.columns
            .get(column as usize)
            .map(|mapped| &mapped.source)
    }

    /// The type of a column.
    pub(super) fn type_of(&self, column: Column) -> SqlType {
        self.columns
            .get(column as usize)
            .map_or(column.default_type(), |mapped| mapped.sql_type)
    }

    /// Whether the table has the column.
    pub(crate) fn has(&self, column: Column) -> bool {
        matches!(self.source(column), Some(Source::Column(_)))
    }

    /// The columns that the table has.
    pub(super) fn own_columns(&self) -> impl Iterator<Item = Column> {
        Column::ALL.into_iter().filter(|column| self.has(*column))
    }

    /// Whether values are computed from any columns of the table.
    #[cfg(feature = "postgres")]
    pub(super) fn has_expressions(&self) -> bool {
        let is_expression = |mapped: &MappedColumn| matches!(mapped.source, Source::Expression(_));
        self.aggregate.is_some() || self.columns.iter().any(is_expression)
    }

    /// Whether another program appends to the log.
    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Whether the mapping is one of a table that exists, rather than of one that a migration creates.
    pub(super) fn is_of_existing_table(&self) -> bool {
        let differs =
            |column: Column| !self.has(column) || self.type_of(column) != column.default_type();
        self.is_read_only || self.events_namespace.is_some() || Column::ALL.into_iter().any(differs)
    }

    /// Whether events of one type are found by an index on type and position.
    #[cfg(feature = "postgres")]
    pub(super) fn has_scope_index(&self) -> bool {
        !self.is_of_existing_table()
            || self.has_scope_index
            || self
                .location
                .as_ref()
                .is_some_and(|found| found.has_scope_index)
    }

    /// The condition on the aggregate of type `$1` and id `$2`, if not that of both columns.
    pub(super) fn aggregate_override(&self) -> Option<&'static str> {
        self.aggregate
    }

    /// A column as it is in the table, in SQL.
    pub(super) fn in_table(&self, column: Column) -> String {
        match self.source(column) {
            Some(Source::Column(name)) => quote(name),
            Some(Source::Constant(Constant::Text(text))) => format!("'{text}'"),
            Some(Source::Constant(Constant::Number(number))) => number.to_string(),
            Some(Source::Expression(expression)) => format!("({expression})"),
            Some(Source::Missing) | None => "CAST(NULL AS TEXT)".to_owned(),
        }
    }

    /// Checks every name, so that only names can become part of SQL.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let schema = self.namespace.as_deref();
        let location = self.location.as_ref();
        let sequence = self.sequence.as_deref();
        let tables = [
            ("a database schema", schema),
            ("a database schema", self.events_namespace.as_deref()),
            ("a database schema", location.map(|found| &*found.own)),
            ("a database schema", location.map(|found| &*found.events)),
            ("the table of events", Some(self.events.as_str())),
            ("the table of heads", Some(self.heads.as_str())),
            ("the sequence", sequence),
        ];
        let tables = tables
            .into_iter()
            .filter_map(|(what, name)| Some((what, name?)));
        let columns = self
            .own_columns()
            .map(|column| ("a column", self.column_name(column)));
        tables
            .chain(columns)
            .try_for_each(|(what, name)| check_identifier(what, name))?;
        if self.in_search_path && self.namespace.is_none() {
            return Err(StoreError::InvalidIdentifier {
                what: "the schema of `in_search_path`",
                name: String::new(),
                reason: "it is that of `database_schema`, which is missing",
            });
        }
        self.check_columns_differ()?;
        self.check_heads()?;
        Column::ALL
            .into_iter()
            .try_for_each(|column| self.check_column(column))
    }

    /// Refuses what no table can have.
    fn check_column(&self, column: Column) -> Result<(), StoreError> {
        let sql_type = self.type_of(column);
        let refused = |reason: String| Err(StoreError::InvalidMapping { column, reason });
        if !column.types().contains(&sql_type) {
            let types = column.types().iter();
            let types: Vec<String> = types.map(|one| format!("SqlType::{one:?}")).collect();
            let reason = format!(
                "`SqlType::{sql_type:?}` is none of `{}`",
                types.join("`, `")
            );
            return refused(reason);
        }
        match self.source(column) {
            Some(Source::Missing) if !column.is_optional() => refused(
                "every event has a value in it; name its column with `.column(…)`, or give all events \
                 the same value with `.constant(…)`"
                    .to_owned(),
            ),
            Some(Source::Constant(value)) if !column.allows(value) => refused(format!(
                "`{value:?}` cannot be its value in all events; name its column with `.column(…)`"
            )),
            Some(Source::Constant(Constant::Text(text))) => check_literal(column, text),
            Some(Source::Expression(_)) if column == Column::GlobalPosition => {
                refused("the log is read by an index on it; name its column with `.column(…)`".to_owned())
            }
            Some(Source::Expression(_)) if !self.is_read_only => refused(
                "an expression cannot be written to; add `.read_only()` if another program appends"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Refuses the name of the column that only the table of heads has.
    fn check_heads(&self) -> Result<(), StoreError> {
        let shared = [
            Column::AggregateType,
            Column::AggregateId,
            Column::AggregateVersion,
        ];
        let taken = shared
            .into_iter()
            .map(|column| self.column_name(column))
            .find(|name| name.eq_ignore_ascii_case("updated_at"));
        match taken {
            Some(name) => Err(StoreError::InvalidIdentifier {
                what: "a column",
                name: name.to_owned(),
                reason: "the table of heads has a column of that name",
            }),
            None => Ok(()),
        }
    }

    fn check_columns_differ(&self) -> Result<(), StoreError> {
        let names: Vec<&str> = self
            .own_columns()
            .map(|column| self.column_name(column))
            .collect();
        for (index, name) in names.iter().enumerate() {
            if names.iter().take(index).any(|other| other == name) {
                return Err(StoreError::InvalidIdentifier {
                    what: "a column",
                    name: (*name).to_owned(),
                    reason: "another column has that name",
                });
            }
        }
        Ok(())
    }

    /// Fills the names into SQL: `{events}`, `{heads}`, `{frontier}` and `{log_state}` for the tables of
    /// the log, `{progress}`, `{workers}`, `{pending}`, `{parked}`, `{handled}`, `{logs}`, `{marks}`,
    /// `{active}` and `{retired}` for those of the consumers, `{versions}`, `{guard}` and `{refuse retired}`; `{aggregate_type}` and so on for columns, all quoted;
    /// `{=aggregate_type}` is the bare name, for use inside a string literal, as is `{log}`, the name of the
    /// table of events; `{schema}` is their database schema, if one was given, and `{known}` the version
    /// of the tables that this library knows.
    pub(crate) fn render(&self, sql: &str) -> String {
        fill_in(sql, |key| Some(self.lookup(key)))
    }

    pub(super) fn lookup(&self, key: &str) -> String {
        let own = match key {
            "log" => return self.events.clone(),
            "known" => return KNOWN.to_string(),
            "needed" => return NEEDED.to_string(),
            "schema" => return quote(self.namespace.as_deref().unwrap_or_default()),
            "events" => return self.of_events(&self.events),
            "heads" => return self.of_events(&self.heads),
            "progress" => "consumer_progress",
            "workers" => "consumer_worker",
            "pending" => "consumer_pending",
            "frontier" => "consumer_frontier",
            "log_state" => "consumer_log_state",
            "parked" => "consumer_parked",
            "handled" => "consumer_handled",
            "logs" => "consumer_log",
            "marks" => "consumer_mark",
            "active" => "consumer_active",
            "read models" => "consumer_read_models",
            "versions" => "consumer_schema",
            "retired" => "consumer_retired",
            "guard" => "consumer_guard",
            "refuse retired" => "consumer_refuse_retired",
            _ => {
                return match key.strip_prefix('=') {
                    Some(bare) => self.column_called(bare).to_owned(),
                    None => Column::called(key)
                        .map_or_else(|| quote(key), |column| self.in_table(column)),
                };
            }
        };
        let found = self.location.as_ref().map(|found| &found.own);
        qualified(found.or(self.namespace.as_ref()).map(String::as_str), own)
    }

    /// The name of a table of events or heads, which may be elsewhere than this library's own.
    fn of_events(&self, table: &str) -> String {
        let found = self.location.as_ref().map(|found| &*found.events);
        qualified(found.or(self.events_schema_name()), table)
    }

    fn column_called<'a>(&'a self, name: &'a str) -> &'a str {
        Column::called(name).map_or(name, |column| self.column_name(column))
    }
}

fn qualified(schema: Option<&str>, name: &str) -> String {
    match schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(name)),
        None => quote(name),
    }
}

fn check_identifier(what: &'static str, name: &str) -> Result<(), StoreError> {
    // Postgres truncates longer names without an error, and would then find another table.
    const LONGEST: usize = 63;
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > LONGEST {
        "it is longer than 63 bytes"
    } else if name
        .chars()
        .any(|c| c.is_control() || matches!(c, '"' | '\'' | '\\' | '$'))
    {
        "it contains a quote, a backslash, a dollar sign or a control character"
    } else {
        return Ok(());
    };
    Err(StoreError::InvalidIdentifier {
        what,
        name: name.to_owned(),
        reason,
    })
}

/// Refuses a text that could end the literal of a constant.
fn check_literal(column: Column, text: &str) -> Result<(), StoreError> {
    if text
        .chars()
        .any(|c| c.is_control() || matches!(c, '\'' | '\\' | '$'))
    {
        let reason = format!(
            "`{text}` contains a quote, a backslash, a dollar sign or a control character, which a \
             constant cannot have"
        );
        return Err(StoreError::InvalidMapping { column, reason });
    }
    Ok(())
}

/// Quotes an identifier, which has been checked to contain no quote.
fn quote(identifier: &str) -> String {
    format!("\"{identifier}\"")
}

#[cfg(test)]
mod tests {
    use super::{Column, Schema};

    #[test]
    fn names_are_filled_in_quoted_and_qualified() {
        let schema = Schema::streams().database_schema("es").events("log");
        assert_eq!(
            schema.render("SELECT {aggregate_type} FROM {events} JOIN {heads}"),
            r#"SELECT "stream_type" FROM "es"."log" JOIN "es"."stream_heads""#
        );
    }

    #[test]
    fn a_name_with_braces_is_filled_in_once() {
        let schema = Schema::default().events("{heads}");
        assert_eq!(schema.render("{events}"), r#""{heads}""#);
    }

    #[test]
    fn a_name_that_could_break_out_of_its_quotes_is_refused() {
        for name in ["", "a\"b", "a'b", "a$b", "a\0b", &"x".repeat(64)] {
            let error = Schema::default().events(name).check().unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("the table of events cannot be named")
            );
        }
    }

    #[test]
    fn a_column_of_the_heads_cannot_have_the_name_of_their_own_one() {
        let schema = Schema::default().column(Column::AggregateId, "updated_at");
        let error = schema.check().unwrap_err();
        assert!(error.to_string().contains("the table of heads"));
        let schema = Schema::default().column(Column::CreatedAt, "updated_at");
        schema.check().unwrap();
    }

    #[test]
    fn two_columns_with_one_name_are_refused() {
        let schema = Schema::default().column(Column::TraceId, "payload");
        let error = schema.check().unwrap_err();
        assert!(error.to_string().contains("another column has that name"));
    }
}
