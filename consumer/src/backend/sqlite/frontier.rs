//! The frontier on SQLite.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, SqlitePool};
use tokio::sync::Notify;

use crate::backend::events::{EventStatements, Events as _};
use crate::backend::frontier::{
    Blocker, Frontier, FrontierWatch, LOG_STATE, LogState, Observation,
};
use crate::backend::log_rows::LogRow;
use crate::backend::{
    FrontierError, Incarnation, LogProblem, ReadRange, Sql, StoreError, StoreSettings,
};

const HEAD: &str = "
    SELECT coalesce((SELECT max({global_position}) FROM {events}), 0) AS head,
           (SELECT {global_position} FROM {events} WHERE {global_position} < 1 LIMIT 1) AS below_one";

/// The highest position that was ever given out; SQLite gives rolled-back ones out again. The table has
/// the name with which it was created, and the mapping can have it in other letters.
const GIVEN_OUT: &str =
    "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = $1 COLLATE NOCASE";

const NOTE_FIRST: &str = "
    INSERT INTO {log_state} AS s (log, first_position) VALUES ('{log}', $1)
    ON CONFLICT (log) DO UPDATE SET first_position = excluded.first_position
     WHERE s.first_position IS NULL OR s.first_position > excluded.first_position";

impl Frontier for Sqlite {
    type Watch = SqliteWatch;

    const POLL_INTERVAL: Duration = Duration::from_millis(50);

    const COUNT_SCOPE: &'static str = "
        SELECT count(*) AS events FROM (
            SELECT 1 FROM {events}
             WHERE {aggregate_type} IN (SELECT value FROM json_each($4))
               AND {global_position} > $1 AND {global_position} <= $2
             LIMIT $3) AS w";

    const AGE_SCOPE: &'static str = "
        SELECT {event age} AS age
          FROM {events} WHERE {global_position} = (
            -- The lowest position of each type is one look into the index.
            SELECT min((SELECT min({global_position}) FROM {events}
                         WHERE {aggregate_type} = t.value
                           AND {global_position} > $1 AND {global_position} <= $2))
              FROM json_each($3) AS t)";

    const OF_SCOPE: &'static str = "
        WHERE {aggregate_type} IN (SELECT value FROM json_each($1))";

    async fn read_settled(
        connection: &mut SqliteConnection,
        statements: &EventStatements<Self>,
        range: ReadRange<'_>,
        _incarnation: Incarnation,
    ) -> Result<Vec<LogRow>, StoreError> {
        // There is no other server.
        Self::read_range(connection, statements, range).await
    }

    async fn settled_head(
        connection: &mut SqliteConnection,
        statements: &EventStatements<Self>,
        incarnation: Incarnation,
    ) -> Result<(i64, Incarnation), StoreError> {
        let head = Self::latest_global_position(connection, statements).await?;
        Ok((head, incarnation))
    }

    async fn listen(_pool: SqlitePool, _url: Option<Arc<str>>, _wake: Arc<Notify>) {
        std::future::pending::<()>().await;
    }
}

/// The frontier on SQLite: the head, since there is one writer, and a position that was rolled back is
/// given out again.
pub struct SqliteWatch {
    head_statement: Sql,
    log_state: Sql,
    note_first: Sql,
    events: Arc<str>,
    head: i64,
    data_version: Option<i64>,
}

async fn given_out(events: &str, connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(GIVEN_OUT)
        .bind(events)
        .fetch_one(connection)
        .await
}

impl SqliteWatch {
    async fn read_head(&self, connection: &mut SqliteConnection) -> Result<i64, FrontierError> {
        let query = self.head_statement.query::<Sqlite>();
        let row = query.fetch_one(connection).await?;
        if let Some(position) = row.try_get("below_one")? {
            return Err(FrontierError::Log(LogProblem::PositionBelowOne {
                position,
            }));
        }
        Ok(row.try_get("head")?)
    }

    async fn refuse_reset(&self, connection: &mut SqliteConnection) -> Result<(), FrontierError> {
        self.refuse_above(connection, "the settled frontier".into(), self.head)
            .await
    }
}

impl FrontierWatch<Sqlite> for SqliteWatch {
    async fn start(
        settings: &StoreSettings,
        _connection: &mut SqliteConnection,
    ) -> Result<Self, FrontierError> {
        Ok(Self {
            head_statement: Sql::new(settings, HEAD),
            log_state: Sql::new(settings, LOG_STATE),
            note_first: Sql::new(settings, NOTE_FIRST),
            events: settings.schema.events_name().into(),
            head: 0,
            data_version: None,
        })
    }

    async fn probe(
        &self,
        _pool: &SqlitePool,
        _connection: &mut SqliteConnection,
    ) -> Result<(), FrontierError> {
        // No one else can fill a gap.
        Ok(())
    }

    async fn refuse_above(
        &self,
        connection: &mut SqliteConnection,
        what: String,
        position: i64,
    ) -> Result<(), FrontierError> {
        let last_value = given_out(&self.events, connection).await?;
        if position <= last_value {
            return Ok(());
        }
        Err(FrontierError::Log(LogProblem::Reset {
            what,
            position,
            last_value,
        }))
    }

    async fn observe(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<Observation, FrontierError> {
        // It changes when another connection has committed, and costs no read of the table.
        let data_version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut *connection)
            .await?;
        if self.data_version != Some(data_version) {
            let head = self.read_head(connection).await?;
            // The newest events may have been archived, whose positions are not given out again.
            if head < self.head {
                self.refuse_reset(connection).await?;
            }
            self.head = self.head.max(head);
            self.data_version = Some(data_version);
        }
        Ok(Observation {
            settled: self.head,
            head: self.head,
            incarnation: Incarnation::default(),
            waiting: false,
            more: false,
        })
    }

    async fn read_with(
        &self,
        connection: &mut SqliteConnection,
        statement: AssertSqlSafe<Arc<str>>,
    ) -> Result<(LogState, Vec<SqliteRow>), FrontierError> {
        let log = self.log_state.on::<Sqlite>();
        let log = log.fetch_optional(connection).await?;
        let log = LogState::decode::<Sqlite>(&log.ok_or(sqlx::Error::RowNotFound)?)?;
        let rows = sqlx::raw_sql(statement).fetch_all(connection).await?;
        Ok((log, rows))
    }

    async fn note_first(
        &self,
        connection: &mut SqliteConnection,
        position: i64,
    ) -> Result<(), sqlx::Error> {
        let note = self.note_first.on::<Sqlite>().bind(position);
        note.execute(connection).await.map(drop)
    }

    async fn blockers(
        &self,
        _connection: &mut SqliteConnection,
    ) -> Result<Vec<Blocker>, sqlx::Error> {
        Ok(Vec::new())
    }
}
