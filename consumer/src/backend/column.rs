//! The columns of the table of events, and where a mapping takes their values from.

/// A column of the events table that can have another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the column of its name
pub enum Column {
    GlobalPosition,
    /// Like the next two, it names the column in the table of heads, too.
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

/// The type of a column on Postgres, for [`Schema::sql_type`](crate::Schema::sql_type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SqlType {
    /// `text` or `varchar`.
    Text,
    /// `uuid`.
    Uuid,
    /// `integer` or `smallint`.
    Integer,
    /// `bigint`.
    BigInt,
    /// `numeric`.
    Numeric,
    /// `bytea`.
    Bytea,
    /// `json`, whose text is kept as it was written.
    Json,
    /// `jsonb`, which does not preserve white space, the order of keys and duplicate keys.
    Jsonb,
    /// `timestamp`, which is read as a time in UTC.
    Timestamp,
    /// `timestamptz`.
    Timestamptz,
}

/// A value that all events of a log have in one column, for
/// [`Schema::constant`](crate::Schema::constant).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Constant {
    /// A text.
    Text(String),
    /// A number.
    Number(i32),
}

impl From<&str> for Constant {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Constant {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i32> for Constant {
    fn from(number: i32) -> Self {
        Self::Number(number)
    }
}

/// Where the value of a column comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The table's column of this name.
    Column(String),
    /// Nowhere: no event has a value.
    Missing,
    /// The mapping: all events have the same value.
    Constant(Constant),
    /// An SQL expression over the table's columns.
    Expression(String),
}

impl Column {
    pub(super) const ALL: [Self; 13] = [
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

    /// Whether an event may have no value in it.
    pub(super) const fn is_optional(self) -> bool {
        matches!(
            self,
            Self::TraceId | Self::CorrelationId | Self::CausationId | Self::Metadata
        )
    }

    /// Whether all events may have the same value in it.
    pub(super) const fn allows(self, constant: &Constant) -> bool {
        match constant {
            Constant::Text(_) => matches!(self, Self::AggregateType | Self::EventType),
            Constant::Number(_) => matches!(self, Self::EventVersion),
        }
    }

    /// The types that it can have, the default first.
    pub(super) const fn types(self) -> &'static [SqlType] {
        use SqlType::{
            BigInt, Bytea, Integer, Json, Jsonb, Numeric, Text, Timestamp, Timestamptz, Uuid,
        };
        match self {
            Self::GlobalPosition => &[BigInt, Integer],
            Self::AggregateType | Self::EventType => &[Text],
            Self::AggregateId => &[Text, Uuid, Integer, BigInt],
            Self::AggregateVersion => &[BigInt, Integer, Numeric],
            Self::EventId => &[Uuid, Text],
            Self::EventVersion => &[Integer, BigInt, Numeric],
            Self::Payload => &[Bytea, Jsonb, Json, Text],
            Self::TraceId | Self::CorrelationId | Self::CausationId => &[Text, Uuid],
            Self::Metadata => &[Jsonb, Json, Text],
            Self::CreatedAt => &[Timestamptz, Timestamp],
        }
    }

    /// The default type.
    pub(super) const fn default_type(self) -> SqlType {
        match self.types() {
            [first, ..] => *first,
            [] => SqlType::Text,
        }
    }

    /// The default name.
    pub(super) const fn name(self) -> &'static str {
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

    /// The column of a default name.
    pub(super) fn called(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }
}

impl SqlType {
    /// Its name in SQL.
    pub(super) const fn sql_name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Uuid => "uuid",
            Self::Integer => "integer",
            Self::BigInt => "bigint",
            Self::Numeric => "numeric",
            Self::Bytea => "bytea",
            Self::Json => "json",
            Self::Jsonb => "jsonb",
            Self::Timestamp => "timestamp",
            Self::Timestamptz => "timestamptz",
        }
    }

    /// The type of a name that the catalogue of Postgres has.
    #[cfg(feature = "postgres")]
    pub(super) fn of_catalogue(name: &str) -> Option<Self> {
        Some(match name {
            "text" | "character varying" => Self::Text,
            "uuid" => Self::Uuid,
            "integer" | "smallint" => Self::Integer,
            "bigint" => Self::BigInt,
            "numeric" => Self::Numeric,
            "bytea" => Self::Bytea,
            "json" => Self::Json,
            "jsonb" => Self::Jsonb,
            "timestamp without time zone" => Self::Timestamp,
            "timestamp with time zone" => Self::Timestamptz,
            _ => return None,
        })
    }
}

/// A name or an expression as it is written in SQL.
pub(super) fn in_sql(name: &str) -> String {
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
