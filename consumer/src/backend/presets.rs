//! Mappings to the tables of other libraries.

use super::Schema;
use super::column::{Column, SqlType};

/// Message DB's category of a stream, on which it has an index together with the position.
const CATEGORY: &str = "message_store.category(stream_name)";

/// The part of a stream's name after the first dash. Message DB's own function returns NULL without one.
const ID: &str = "CASE WHEN strpos(stream_name, '-') > 0 \
     THEN substr(stream_name, strpos(stream_name, '-') + 1) ELSE '' END";

/// By the name of the stream, on which Message DB has an index together with the version.
const STREAM: &str = "stream_name = CASE WHEN $2 = '' THEN $1 ELSE $1 || '-' || $2 END";

impl Schema {
    /// Maps to the tables of the Go library eventsalsa/store from 0.1 on, which calls aggregates streams:
    /// columns `stream_type`, `stream_id` and `stream_version`, table `stream_heads`, as its
    /// [generator of migrations](https://github.com/eventsalsa/store/blob/main/migrations/generator.go)
    /// creates them.
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

    /// Maps to [Message DB](https://github.com/message-db/message-db), read-only: append with its own
    /// `write_message`.
    ///
    /// | here | in Message DB |
    /// |---|---|
    /// | position | `global_position` |
    /// | aggregate type | the category: `account` of the stream `account-7` |
    /// | aggregate id | what follows the first dash: `7`; empty without a dash |
    /// | aggregate version | `position` in the stream, **which begins with 0** |
    /// | event id, event type | `id`, `type` |
    /// | payload | `data`; `{}` where it is NULL |
    /// | metadata | `metadata` |
    /// | created at | `time` |
    ///
    /// A category with a component type, such as `account:command`, is an aggregate type of its own.
    /// The version of an event's format is always 1, and there are no trace, correlation and causation
    /// ids besides those in the metadata.
    ///
    /// The table is `messages` in the database schema `message_store`. This library's own tables are
    /// elsewhere: in the first schema of the search path, or in that of
    /// [`database_schema`](Self::database_schema). A worker needs USAGE on the schema
    /// `message_store` and SELECT on `messages`, and no other privilege there, as long as PUBLIC may
    /// execute `message_store.category`, which is how Message DB installs it. Where that was revoked, it
    /// needs EXECUTE on this function, and [`check`](crate::EventStore::check) names the statement.
    ///
    /// ```
    /// use consumer::Schema;
    ///
    /// let schema = Schema::message_db().database_schema("consumers");
    /// ```
    #[must_use]
    pub fn message_db() -> Self {
        Self::default()
            .read_only()
            .events_schema("message_store")
            .events("messages")
            .expression(Column::AggregateType, CATEGORY)
            .indexed_by_type()
            .expression(Column::AggregateId, ID)
            .aggregate_condition(STREAM)
            .column(Column::AggregateVersion, "position")
            .column(Column::EventId, "id")
            .column(Column::EventType, "type")
            .constant(Column::EventVersion, 1)
            .column(Column::Payload, "data")
            .sql_type(Column::Payload, SqlType::Jsonb)
            .without(Column::TraceId)
            .without(Column::CorrelationId)
            .without(Column::CausationId)
            .column(Column::CreatedAt, "time")
            .sql_type(Column::CreatedAt, SqlType::Timestamp)
    }
}
