//! The names of tables and columns.

use super::StoreError;
use super::dialect::fill_in;
use super::version::KNOWN;

/// Maps the store to tables with other names.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    namespace: Option<String>,
    /// Where the tables were found; `None` until someone has looked.
    location: Option<Location>,
    events: String,
    heads: String,
    sequence: Option<String>,
    columns: [String; Column::ALL.len()],
}

/// The database schemas in which the tables were found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(all(feature = "postgres", feature = "worker")), allow(dead_code))] // SQLite has no schemas
struct Location {
    /// That of this library's own tables.
    own: String,
    /// That of the table of events.
    events: String,
}

/// A column of the events table that can have another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the column of its name
pub enum Column {
    GlobalPosition,
    /// Like the next two, also the name in the table of heads.
    AggregateType,
    AggregateId,
    AggregateVersion,
    EventId,
    EventType,
    EventVersion,
    Payload,
    TraceId,
    CorrelationId,
    CausationId,
    Metadata,
    CreatedAt,
}

impl Column {
    const ALL: [Self; 13] = [
        Self::GlobalPosition,
        Self::AggregateType,
        Self::AggregateId,
        Self::AggregateVersion,
        Self::EventId,
        Self::EventType,
        Self::EventVersion,
        Self::Payload,
        Self::TraceId,
        Self::CorrelationId,
        Self::CausationId,
        Self::Metadata,
        Self::CreatedAt,
    ];

    /// Every column.
    #[cfg(feature = "postgres")]
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter()
    }

    /// The columns in which every event has a value.
    pub(super) fn required() -> impl Iterator<Item = Self> {
        let optional = |column: &Self| {
            matches!(
                column,
                Self::TraceId | Self::CorrelationId | Self::CausationId | Self::Metadata
            )
        };
        Self::ALL
            .into_iter()
            .filter(move |column| !optional(column))
    }

    /// The default name.
    const fn name(self) -> &'static str {
        match self {
            Self::GlobalPosition => "global_position",
            Self::AggregateType => "aggregate_type",
            Self::AggregateId => "aggregate_id",
            Self::AggregateVersion => "aggregate_version",
            Self::EventId => "event_id",
            Self::EventType => "event_type",
            Self::EventVersion => "event_version",
            Self::Payload => "payload",
            Self::TraceId => "trace_id",
            Self::CorrelationId => "correlation_id",
            Self::CausationId => "causation_id",
            Self::Metadata => "metadata",
            Self::CreatedAt => "created_at",
        }
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self {
            namespace: None,
            location: None,
            events: "events".to_owned(),
            heads: "aggregate_heads".to_owned(),
            sequence: None,
            columns: Column::ALL.map(|column| column.name().to_owned()),
        }
    }
}

impl Schema {
    /// Maps to the tables of the Go library eventsalsa/store from 0.1 on, which calls aggregates streams:
    /// columns `stream_type`, `stream_id` and `stream_version`, table `stream_heads`.
    ///
    /// ```
    /// use consumer::{Column, Schema};
    ///
    /// let by_hand = Schema::default()
    ///     .aggregate_heads("stream_heads")
    ///     .column(Column::AggregateType, "stream_type")
    ///     .column(Column::AggregateId, "stream_id")
    ///     .column(Column::AggregateVersion, "stream_version");
    /// assert_eq!(Schema::streams(), by_hand);
    /// ```
    #[must_use]
    pub fn streams() -> Self {
        Self::default()
            .aggregate_heads("stream_heads")
            .column(Column::AggregateType, "stream_type")
            .column(Column::AggregateId, "stream_id")
            .column(Column::AggregateVersion, "stream_version")
    }

    /// Puts all tables, including this library's own, into a schema other than the first of the search
    /// path. Postgres only.
    #[must_use]
    pub fn database_schema(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
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
    pub fn column(mut self, column: Column, name: impl Into<String>) -> Self {
        if let Some(slot) = self.columns.get_mut(column as usize) {
            *slot = name.into();
        }
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
    pub(super) fn located(mut self, own: String, events: String) -> Self {
        self.location = Some(Location { own, events });
        self
    }

    /// The database schema, if one was given.
    pub(crate) fn database_schema_name(&self) -> Option<&str> {
        self.namespace.as_deref()
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
        Some(qualified(self.namespace.as_deref(), name))
    }

    /// The sequence, if one was given, unquoted.
    #[cfg(feature = "postgres")]
    pub(crate) fn bare_sequence_name(&self) -> Option<&str> {
        self.sequence.as_deref()
    }

    /// The name of a column, unquoted.
    pub(crate) fn column_name(&self, column: Column) -> &str {
        self.columns
            .get(column as usize)
            .map_or(column.name(), String::as_str)
    }

    /// Checks every name, so that only names can become part of SQL.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let schema = self.namespace.as_deref();
        let location = self.location.as_ref();
        let sequence = self.sequence.as_deref();
        let tables = [
            ("a database schema", schema),
            ("a database schema", location.map(|found| &*found.own)),
            ("a database schema", location.map(|found| &*found.events)),
            ("the table of events", Some(self.events.as_str())),
            ("the table of heads", Some(self.heads.as_str())),
            ("the sequence", sequence),
        ];
        let tables = tables
            .into_iter()
            .filter_map(|(what, name)| Some((what, name?)));
        let columns = self.columns.iter().map(|name| ("a column", name.as_str()));
        tables
            .chain(columns)
            .try_for_each(|(what, name)| check_identifier(what, name))?;
        self.check_columns_differ()?;
        self.check_heads()
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
        for (index, name) in self.columns.iter().enumerate() {
            if self.columns.iter().take(index).any(|other| other == name) {
                return Err(StoreError::InvalidIdentifier {
                    what: "a column",
                    name: name.clone(),
                    reason: "another column has that name",
                });
            }
        }
        Ok(())
    }

    /// Fills the names into SQL: `{events}`, `{heads}`, `{frontier}` and `{log_state}` for the tables of
    /// the log, `{progress}`, `{pending}`, `{parked}`, `{handled}`, `{logs}`, `{marks}`, `{active}` and `{retired}` for those of
    /// the consumers, `{versions}`, `{guard}` and `{refuse retired}`; `{aggregate_type}` and so on for columns, all quoted;
    /// `{=aggregate_type}` is the bare name, for use inside a string literal, as is `{log}`, the name of the
    /// table of events; `{schema}` is their database schema, if one was given, and `{known}` the version
    /// of the tables that this library knows.
    pub(crate) fn render(&self, sql: &str) -> String {
        fill_in(sql, |key| Some(self.lookup(key)))
    }

    fn lookup(&self, key: &str) -> String {
        let own = match key {
            "log" => return self.events.clone(),
            "known" => return KNOWN.to_string(),
            "schema" => return quote(self.namespace.as_deref().unwrap_or_default()),
            "events" => return self.of_events(&self.events),
            "heads" => return self.of_events(&self.heads),
            "progress" => "consumer_progress",
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
                    None => quote(self.column_called(key)),
                };
            }
        };
        let found = self.location.as_ref().map(|found| &found.own);
        qualified(found.or(self.namespace.as_ref()).map(String::as_str), own)
    }

    /// The name of a table of events or heads, which may be elsewhere than this library's own.
    fn of_events(&self, table: &str) -> String {
        let found = self.location.as_ref().map(|found| &found.events);
        qualified(found.or(self.namespace.as_ref()).map(String::as_str), table)
    }

    fn column_called<'a>(&'a self, name: &'a str) -> &'a str {
        Column::ALL
            .into_iter()
            .find(|column| column.name() == name)
            .map_or(name, |column| self.column_name(column))
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

/// Quotes an identifier, which has been checked to contain no quote.
fn quote(identifier: &str) -> String {
    format!("\"{identifier}\"")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

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
