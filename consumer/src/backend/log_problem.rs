//! What makes a log one on which events could be lost.

use super::column::in_sql;

/// The reason why positions cannot be settled on this log. No event was skipped, and no consumer runs.
///
/// Each message names the remedy; the guide [`frontier`](crate::guide::frontier) explains why.
/// Each of them can also end a worker that runs, as a [`WorkerError::Log`](crate::WorkerError::Log),
/// except for two that can pass: a running worker waits while the server is a
/// [`Standby`](Self::Standby) or shows no locks ([`InvisibleLocks`](Self::InvisibleLocks)).
///
/// What is wrong with the tables themselves is found all at once by
/// [`migrate`](crate::EventStore::migrate), [`check`](crate::EventStore::check) and a worker that starts,
/// among the other [`Mismatches`](crate::StoreError::Mismatches).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogProblem {
    /// Positions were given out twice, so that a checkpoint would skip events.
    #[error(
        "the log was reset: {what} is at {position}, but the log has given out positions only up to {last_value}; restore the log, or rebuild the consumers and delete the row of `consumer_frontier`"
    )]
    Reset {
        /// The frontier or the checkpoint that is above the log.
        what: String,
        /// Its position.
        position: i64,
        /// The last position that was given out.
        last_value: i64,
    },
    /// The log is lower than it was, and the role may not read the sequence, which would show why.
    #[error(
        "the log's highest event is at position {highest}, and {what} is at {position}: the log was reset, or its newest events were deleted, and the sequence would show which; run `GRANT SELECT ON SEQUENCE {sequence}` to the worker's role, and if the log was reset, rebuild the consumers and delete the row of `consumer_frontier`"
    )]
    Shrunk {
        /// The frontier that is above the log.
        what: String,
        /// Its position.
        position: i64,
        /// The highest position of an event.
        highest: i64,
        /// The sequence.
        sequence: String,
    },
    /// Events have positions that the sequence has not given out, as after an import.
    #[error(
        "the log has events up to position {highest}, but sequence {name} is at {last_value} and would give out their positions again; an import does not move the sequence: run `SELECT setval('{}', {highest})`",
        .name.replace('\'', "''")
    )]
    SequenceBehind {
        /// The sequence.
        name: String,
        /// The highest position of an event.
        highest: i64,
        /// The last position that the sequence gave out.
        last_value: i64,
    },
    /// An event has a position below 1, before the beginning of every checkpoint.
    #[error(
        "the log has an event at position {position}, and positions start at 1, so no consumer would handle it; give the events up to position 0 positions that are not in use, or delete them"
    )]
    PositionBelowOne {
        /// The lowest position of an event.
        position: i64,
    },
    /// No sequence was found from which the position column draws.
    ///
    /// A running worker ends with it if the sequence is dropped. If one transaction drops the sequence and
    /// lets the column draw from another, the worker continues with that one.
    #[error("{}", no_sequence(.table, .column, .sequence.as_deref()))]
    NoSequence {
        /// The table of events.
        table: String,
        /// The column of positions.
        column: String,
        /// The sequence that the mapping names, if it names one.
        sequence: Option<String>,
    },
    /// The sequence hands positions to sessions in advance.
    #[error(
        "sequence {name} has a CACHE above 1, so a session can commit a low position at any later time; run `{}`",
        without_cache(.name)
    )]
    CachedSequence {
        /// The sequence.
        name: String,
    },
    /// The sequence does not count up by one.
    #[error(
        "sequence {name} does not count up by 1 without a cycle; run `{}`",
        counting_up(.name)
    )]
    OddSequence {
        /// The sequence.
        name: String,
    },
    /// The position column draws from another sequence than the one whose locks are watched.
    #[error(
        "positions are drawn from sequence {other}, but the worker watches {name}, so the worker cannot know which positions are still to come; make the default of the position column `nextval('{}')`, or name {other} in the `Schema`",
        .name.replace('\'', "''")
    )]
    OtherSequence {
        /// The sequence that is watched.
        name: String,
        /// The sequence of the column.
        other: String,
        /// Whether the column is that of a table which a view reads, and not that of the log itself.
        of_view: bool,
    },
    /// A view reads rows that appear at another time than that at which their positions are drawn.
    #[error(
        "the view of the events reads {table}, a materialized view or a foreign table, whose rows appear without a lock on the sequence, so the worker cannot know which positions are still to come; run the worker on the tables that the events are appended to"
    )]
    DerivedRows {
        /// The relation that the view reads.
        table: String,
    },
    /// Row-level security restricts which events the worker sees.
    #[error(
        "row-level security is active on the events table for role {role}, so the worker would pass hidden events as if they did not exist; run `{}`, or run the worker as the owner of the table",
        seeing_all(.role)
    )]
    HiddenEvents {
        /// The role from which events are hidden: the worker's, or the owner of a view.
        role: String,
    },
    /// The worker's connections fire no ordinary triggers.
    #[error(
        "`session_replication_role` is `replica` on the worker's connections, so the trigger that keeps handlers from committing the worker's transaction does not fire; remove the setting, as with `ALTER ROLE … RESET session_replication_role` or `ALTER DATABASE … RESET session_replication_role`"
    )]
    TriggersOff,
    /// The server is a standby, whose locks are not those of the writers.
    #[error(
        "the server is a standby, where writers cannot be seen; connect the worker to the primary"
    )]
    Standby,
    /// The events come from logical replication, which does not draw positions here.
    #[error(
        "the events table is the target of a logical replication, whose rows come without a lock on the sequence; run the worker where the events are appended"
    )]
    ReplicationTarget,
    /// The server does not show who holds a lock on the sequence.
    #[error(
        "the lock that `nextval` takes on sequence {name} cannot be seen on this server, so the frontier cannot be known; run the worker on PostgreSQL itself, 13.5 or later, and not on a server that only speaks its protocol"
    )]
    InvisibleLocks {
        /// The sequence.
        name: String,
    },
}

impl LogProblem {
    /// Whether it can pass by itself, so that a running worker waits: a standby can be promoted.
    pub(crate) fn can_pass(&self) -> bool {
        matches!(self, Self::Standby | Self::InvisibleLocks { .. })
    }

    /// The statement, or the line of the mapping, that removes it where the log itself is the reason.
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::NoSequence {
                table,
                column,
                sequence,
            } => match sequence {
                Some(_) => r#".sequence("…")"#.to_owned(),
                None => with_sequence(table, column),
            },
            Self::CachedSequence { name } => without_cache(name),
            Self::OddSequence { name } => counting_up(name),
            Self::OtherSequence {
                name,
                of_view: true,
                ..
            } => format!("ALTER TABLE … ALTER … SET DEFAULT nextval('{name}')"),
            Self::OtherSequence { other, .. } => {
                let name = other.rsplit_once('.').map_or(&**other, |(_, name)| name);
                format!(r#".sequence("{}")"#, name.trim_matches('"'))
            }
            Self::DerivedRows { .. } => r#".events("…")"#.to_owned(),
            Self::HiddenEvents { role } => seeing_all(role),
            _ => String::new(),
        }
    }
}

fn no_sequence(table: &str, column: &str, sequence: Option<&str>) -> String {
    let reason = "so the worker cannot know which positions are still to come";
    match sequence {
        Some(name) => format!(
            "there is no sequence `{name}`, {reason}; name the one that `{column}` of `{table}` draws from with `.sequence(\"…\")`"
        ),
        None => format!(
            "`{column}` of `{table}` draws from no sequence, {reason}; run `{}`, or, if a trigger or a function draws from a sequence, name it with `.sequence(\"…\")`: a log whose positions a program computes by itself cannot be consumed",
            with_sequence(table, column)
        ),
    }
}

/// Gives a column a sequence, which begins after the events that the table has.
fn with_sequence(table: &str, column: &str) -> String {
    let (table, name) = (in_sql(table), in_sql(column));
    format!(
        "ALTER TABLE {table} ALTER {name} ADD GENERATED BY DEFAULT AS IDENTITY; SELECT setval(pg_get_serial_sequence('{table}', '{column}'), (SELECT max({name}) FROM {table}))"
    )
}

fn without_cache(sequence: &str) -> String {
    format!("ALTER SEQUENCE {sequence} CACHE 1")
}

fn counting_up(sequence: &str) -> String {
    format!("ALTER SEQUENCE {sequence} INCREMENT 1 NO CYCLE")
}

fn seeing_all(role: &str) -> String {
    format!("ALTER ROLE {role} BYPASSRLS")
}
