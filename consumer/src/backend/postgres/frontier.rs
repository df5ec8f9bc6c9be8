//! The frontier on Postgres.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgListener, PgRow, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, PgPool, Row as _};
use tokio::sync::Notify;

use super::connect::{
    BEGIN_READ, BEGIN_WRITE, has_code, refuse_old_server, server_incarnation, with_numbers,
};
use super::events::{read_marked, read_marked_head};
use super::marker::{Marker, RESTARTED, no_proof, refuse_foreign, server_marker};
use super::sequence::Sequence;
use crate::backend::events::EventStatements;
use crate::backend::frontier::{
    Blocker, Frontier, FrontierWatch, LOG_STATE, LagStatements, LogState, Observation,
};
use crate::backend::log_rows::{LogRow, position};
use crate::backend::pool::acquire;
use crate::backend::sql::statements;
use crate::backend::{
    Column, FrontierError, Incarnation, LogProblem, Pace, ReadRange, Sql, StoreError, StoreSettings,
};

/// Reads the head of the log and, in a bounded window above the frontier `$1`, how far positions follow
/// each other without a gap: up to there the n-th row is n above the frontier.
///
/// The head is that of the whole log, so that one set of evidence settles all of it, however many
/// windows its old gaps are scattered over.
const WINDOW: &str = concat!(
    "
    SELECT coalesce((SELECT max({global_position}) FROM {events}), 0)::bigint AS head,
           coalesce(max(p) FILTER (WHERE p - $1 = n), $1)::bigint AS contiguous,
           -- Not `min`, which would walk over the dead index entries of archived events.
           (SELECT {global_position} FROM {events} WHERE {global_position} < 1 LIMIT 1)::bigint AS below_one,
           {last value of the sequence} AS last_value,
           -- In the snapshot of the rows, so that a row drawn after a change of the sequence shows it.
           (SELECT seqcache = 1 AND seqincrement = 1 AND NOT seqcycle
              FROM pg_sequence WHERE seqrelid = $2::oid) AS counts_one_by_one, ",
    // Of a view this is false; its reads find out.
    server_marker!("row_security_active($3::oid)"),
    " AS marker
      FROM (SELECT {global_position} AS p, row_number() OVER (ORDER BY {global_position}) AS n
              FROM {events} WHERE {global_position} > $1 ORDER BY {global_position} LIMIT 10000) AS w"
);

/// The highest number of rows that [`WINDOW`] reads above the frontier.
const WINDOW_ROWS: i64 = 10_000;

/// The transactions that drew a position and have not ended: `nextval` locks the sequence before it
/// computes the value, and the top-level transaction keeps that lock until it ends.
///
/// A standby would say that there are none, so a row shows which server answers.
const HOLDERS: &str = concat!(
    "
    SELECT DISTINCT virtualtransaction AS holder, NULL::bigint[] AS marker FROM pg_locks
     WHERE locktype = 'relation' AND relation = $1::oid AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND mode = 'RowExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()
    UNION ALL
    SELECT NULL, ",
    server_marker!()
);

const BLOCKERS: &str = "
    SELECT l.pid, coalesce(x.gid, nullif(a.application_name, ''), '?') AS name,
           (extract(epoch FROM clock_timestamp() - coalesce(x.prepared, a.xact_start)) * 1000)::bigint AS open
      FROM pg_locks AS l
      LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
      LEFT JOIN pg_locks AS own
             ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
            AND own.virtualtransaction = l.virtualtransaction
      LEFT JOIN pg_prepared_xacts AS x ON x.transaction = own.transactionid
     WHERE l.locktype = 'relation' AND l.relation = $1::oid AND l.granted
       AND l.mode = 'RowExclusiveLock' AND l.virtualtransaction = ANY ($2)";

/// The last value that a sequence gave out, in [`WINDOW`]; NULL if the role may not read it.
const LAST_VALUE: &str =
    "(SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM $)";

const DURABLE: &str = "SELECT settled FROM {frontier} WHERE log = $1";

const SAVE_FRONTIER: &str = concat!(
    "INSERT INTO {frontier} AS f (log, settled) SELECT $1, $2 WHERE ",
    server_incarnation!(is "$3", "$4"),
    " ON CONFLICT (log) DO UPDATE SET settled = excluded.settled, updated_at = clock_timestamp()
     WHERE f.settled < excluded.settled"
);

const NOTE_FIRST: &str = concat!(
    "INSERT INTO {log_state} AS s (log, first_position) SELECT '{log}', $1 WHERE ",
    server_incarnation!(is "$2", "$3"),
    " ON CONFLICT (log) DO UPDATE SET first_position = excluded.first_position
       WHERE s.first_position IS NULL OR s.first_position > excluded.first_position"
);

statements! {
    /// The frontier's statements, with the names of the schema.
    FrontierStatements {
        blockers: BLOCKERS,
        log_state: LOG_STATE,
        note_first: NOTE_FIRST,
        durable: DURABLE,
        save_frontier: SAVE_FRONTIER,
    }
}

/// Like `COUNT_SCOPE`, without an index on types.
const COUNT_FILTERED: &str = "
    SELECT count(*) AS events FROM (
        SELECT 1 FROM {events}
         WHERE {global_position} > $1 AND {global_position} <= $2
           AND {aggregate_type} = ANY(ARRAY(SELECT json_array_elements_text($4::text::json)))
         LIMIT $3) AS w";

/// Like `AGE_SCOPE`, without an index on types.
const AGE_FILTERED: &str = "
    SELECT {event age} AS age FROM {events}
     WHERE {global_position} > $1 AND {global_position} <= $2
       AND {aggregate_type} = ANY(ARRAY(SELECT json_array_elements_text($3::text::json)))
     ORDER BY {global_position} LIMIT 1";

impl Frontier for Postgres {
    type Watch = PgWatch;

    const POLL_INTERVAL: Duration = Duration::from_millis(250);

    const COUNT_SCOPE: &'static str = "
        SELECT count(*) AS events FROM (
            SELECT 1 FROM json_array_elements_text($4::text::json) AS t (kind)
             CROSS JOIN LATERAL (
                -- The bounds of both columns make it one index scan a type.
                SELECT 1 FROM {events}
                 WHERE {aggregate_type} = t.kind
                   AND ({aggregate_type}, {global_position}) > (t.kind, $1)
                   AND {global_position} <= $2
                 LIMIT $3) AS e
             LIMIT $3) AS w";

    const AGE_SCOPE: &'static str = "
        SELECT e.age
          FROM json_array_elements_text($3::text::json) AS t (kind)
         CROSS JOIN LATERAL (
            SELECT {global_position} AS position, {event age} AS age FROM {events}
             WHERE {aggregate_type} = t.kind
               AND ({aggregate_type}, {global_position}) > (t.kind, $1)
               AND {global_position} <= $2
             ORDER BY {aggregate_type}, {global_position} LIMIT 1) AS e
         ORDER BY e.position LIMIT 1";

    const OF_SCOPE: &'static str = "
        WHERE {aggregate_type} = ANY (ARRAY(SELECT json_array_elements_text($1::text::json)))";
    fn lag_statements(settings: &StoreSettings) -> LagStatements {
        let statements = LagStatements::new::<Self>(settings);
        if settings.schema.has_scope_index() {
            return statements;
        }
        LagStatements {
            count_scope: Sql::new(settings, COUNT_FILTERED),
            age_scope: Sql::new(settings, AGE_FILTERED),
            ..statements
        }
    }

    async fn read_settled(
        connection: &mut PgConnection,
        statements: &EventStatements<Self>,
        range: ReadRange<'_>,
        incarnation: Incarnation,
    ) -> Result<Vec<LogRow>, StoreError> {
        let (rows, marker) = read_marked(connection, statements, range).await?;
        refuse_foreign(marker, incarnation)?;
        // `UNION ALL` promises no order.
        if !rows.is_sorted_by(|row, next| position(row) <= position(next)) {
            return Err(no_proof(
                "the server returned events in another order than that of their positions",
            )
            .into());
        }
        Ok(rows)
    }

    async fn settled_head(
        connection: &mut PgConnection,
        statements: &EventStatements<Self>,
        incarnation: Incarnation,
    ) -> Result<(i64, Incarnation), StoreError> {
        let (head, marker) = read_marked_head(connection, statements).await?;
        let wanted = if incarnation == Incarnation::default() {
            marker.incarnation
        } else {
            incarnation
        };
        refuse_foreign(Some(marker), wanted)?;
        Ok((head, marker.incarnation))
    }

    async fn listen(pool: PgPool, url: Option<Arc<str>>, wake: Arc<Notify>) {
        loop {
            let listener = match &url {
                Some(url) => PgListener::connect(url).await,
                None => PgListener::connect_with(&pool).await,
            };
            if let Ok(mut listener) = listener
                && listener.listen("consumer_events").await.is_ok()
            {
                // Commits before the LISTEN notified no one.
                wake.notify_one();
                // `None` is a lost connection: sqlx has reconnected, and may have missed a notification.
                while listener.try_recv().await.is_ok() {
                    wake.notify_one();
                }
            }
            tracing::warn!("the listener for commits is not connected; polling continues");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The frontier on Postgres, by the locks on the sequence.
///
/// Each [`Generation`] is a highest position and the transactions that may still fill a gap below it.
/// Rows are read first and lock holders second, never in one statement: a transaction that drew a
/// position below the highest row held its lock before that row was read, so it is either among the
/// holders or has ended, and then its rows are visible to any later snapshot.
pub struct PgWatch {
    settled: i64,
    durable: i64,
    /// Whether a gap was passed that is not below the durable frontier.
    has_passed_gap: bool,
    saves: Pace,
    head: i64,
    incarnation: Incarnation,
    sequence: Sequence,
    log: Arc<str>,
    window: String,
    statements: FrontierStatements,
    generations: VecDeque<Generation>,
}

#[derive(Debug)]
struct Generation {
    highest: i64,
    holders: HashSet<String>,
}

/// More generations at once would not bring the frontier closer to the head.
const MAX_GENERATIONS: usize = 64;

impl FrontierWatch<Postgres> for PgWatch {
    async fn probe(
        &self,
        pool: &PgPool,
        connection: &mut PgConnection,
    ) -> Result<(), FrontierError> {
        let mut tx = connection.begin_with(BEGIN_READ).await?;
        probe(pool, &mut tx, &self.sequence, self.incarnation).await?;
        Ok(tx.commit().await?)
    }

    async fn refuse_above(
        &self,
        connection: &mut PgConnection,
        what: String,
        position: i64,
    ) -> Result<(), FrontierError> {
        let window = self.read_window(connection).await?;
        if window.incarnation != self.incarnation {
            return Err(no_proof(RESTARTED).into());
        }
        self.refuse_reset(what, position, &window)
    }

    async fn start(
        settings: &StoreSettings,
        connection: &mut PgConnection,
    ) -> Result<Self, FrontierError> {
        let mut tx = connection.begin_with(BEGIN_READ).await?;
        let sequence = sequence(settings, &mut tx).await?;
        tx.commit().await?;
        Self::watch(settings, connection, sequence).await
    }

    async fn observe(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<Observation, FrontierError> {
        let mut window = self.read_window(connection).await?;
        if window.incarnation != self.incarnation {
            tracing::warn!(
                settled = self.settled,
                "the server restarted, or its statistics were reset: starting again from the durable frontier"
            );
            self.begin_incarnation(connection).await?;
            window = self.read_window(connection).await?;
        }
        self.refuse(&window)?;
        self.refuse_conditions(&window, connection).await?;
        self.refuse_reset("the settled frontier".into(), self.settled, &window)?;
        let before = self.settled;
        let highest = window.head.max(before);
        self.head = self.head.max(highest);
        self.settle(window.contiguous);
        let contiguous = self.settled;
        if self.settled < highest || !self.generations.is_empty() {
            self.weigh_evidence(connection, highest).await?;
        }
        self.has_passed_gap |= self.settled > contiguous;
        let more = window.contiguous - before == WINDOW_ROWS && self.settled < highest;
        if !more && self.is_worth_saving(before) {
            self.save(connection).await?;
        }
        Ok(Observation {
            settled: self.settled,
            head: self.head,
            incarnation: self.incarnation,
            waiting: !self.generations.is_empty(),
            more,
        })
    }

    async fn read_with(
        &self,
        connection: &mut PgConnection,
        statement: AssertSqlSafe<Arc<str>>,
    ) -> Result<(LogState, Vec<PgRow>), FrontierError> {
        let script = [
            &*self.sequence.conditions().0,
            self.statements.log_state.as_ref(),
            &*statement.0,
        ];
        let script = AssertSqlSafe(script.join(";\n"));
        let mut rows = sqlx::raw_sql(script)
            .fetch_all(connection)
            .await?
            .into_iter();
        let (Some(conditions), Some(log)) = (rows.next(), rows.next()) else {
            return Err(sqlx::Error::RowNotFound.into());
        };
        let marker = self.sequence.check(&conditions)?;
        refuse_foreign(Some(marker), self.incarnation)?;
        Ok((LogState::decode::<Postgres>(&log)?, rows.collect()))
    }

    async fn note_first(
        &self,
        connection: &mut PgConnection,
        position: i64,
    ) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        self.statements
            .note_first
            .query()
            .bind(position)
            .bind(self.incarnation.started)
            .bind(self.incarnation.recovered)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    async fn blockers(&self, connection: &mut PgConnection) -> Result<Vec<Blocker>, sqlx::Error> {
        let Some(oldest) = self.generations.front() else {
            return Ok(Vec::new());
        };
        let holders: Vec<String> = oldest.holders.iter().cloned().collect();
        let mut tx = connection.begin_with(BEGIN_READ).await?;
        let rows = self
            .statements
            .blockers
            .query()
            .bind(self.sequence.relation)
            .bind(holders)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        rows.iter()
            .map(|row| {
                let open: Option<i64> = row.try_get("open")?;
                Ok(Blocker {
                    pid: row.try_get("pid")?,
                    name: row.try_get("name")?,
                    // The clock may have been set back.
                    open: open.map(|ms| Duration::from_millis(ms.try_into().unwrap_or(0))),
                })
            })
            .collect()
    }
}

struct Window {
    head: i64,
    contiguous: i64,
    below_one: Option<i64>,
    /// `None` if the role may not read the sequence.
    last_value: Option<i64>,
    counts_one_by_one: Option<bool>,
    /// Whether row-level security hides events.
    hides_events: bool,
    incarnation: Incarnation,
}

impl PgWatch {
    async fn watch(
        settings: &StoreSettings,
        connection: &mut PgConnection,
        sequence: Sequence,
    ) -> Result<Self, FrontierError> {
        // The name is from the catalogue, which quotes it where necessary.
        let last_value = if sequence.is_readable {
            LAST_VALUE.replace('$', &sequence.name)
        } else {
            "NULL::bigint".to_owned()
        };
        let window = settings
            .render(WINDOW)
            .replace("\"last value of the sequence\"", &last_value);
        let mut watch = Self {
            settled: 0,
            durable: 0,
            has_passed_gap: false,
            saves: Pace::default(),
            head: 0,
            incarnation: Incarnation::default(),
            sequence,
            log: settings.schema.events_name().into(),
            window,
            statements: FrontierStatements::new(settings),
            generations: VecDeque::new(),
        };
        watch.begin_incarnation(connection).await?;
        Ok(watch)
    }

    /// Drops what was seen in another incarnation of the server and starts from the durable frontier.
    async fn begin_incarnation(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<(), FrontierError> {
        let mut connection = connection.begin_with(BEGIN_READ).await?;
        self.generations.clear();
        self.settled = self
            .statements
            .durable
            .scalar()
            .bind(&*self.log)
            .fetch_optional(&mut *connection)
            .await?
            .unwrap_or(0);
        self.durable = self.settled;
        self.has_passed_gap = false;
        self.head = self.settled;
        // Last: what other processes settle meanwhile was given out before.
        let window = self.read_window(&mut connection).await?;
        connection.commit().await?;
        self.incarnation = window.incarnation;
        self.refuse(&window)?;
        self.refuse_reset("the durable frontier".into(), self.settled, &window)
    }

    /// Refuses a position above the log. Without the sequence only a log that is lower now tells that it
    /// was reset.
    fn refuse_reset(
        &self,
        what: String,
        position: i64,
        window: &Window,
    ) -> Result<(), FrontierError> {
        let problem = match window.last_value {
            Some(last_value) if position > last_value => LogProblem::Reset {
                what,
                position,
                last_value,
            },
            None if position > window.head => LogProblem::Shrunk {
                what,
                position,
                highest: window.head,
                sequence: self.sequence.name.clone(),
            },
            _ => return Ok(()),
        };
        Err(FrontierError::Log(problem))
    }

    /// Refuses events whose positions the sequence did not give out.
    fn refuse(&self, window: &Window) -> Result<(), LogProblem> {
        if let Some(position) = window.below_one {
            return Err(LogProblem::PositionBelowOne { position });
        }
        // No commit comes in between: the sequence is read as it is now, and the rows as they were when
        // the statement began.
        match window.last_value {
            Some(last_value) if window.head > last_value => Err(LogProblem::SequenceBehind {
                name: self.sequence.name.clone(),
                highest: window.head,
                last_value,
            }),
            _ => Ok(()),
        }
    }

    /// Refuses rows that may not be all there are, or whose positions may have been drawn in another order
    /// than one by one, and says why.
    async fn refuse_conditions(
        &self,
        window: &Window,
        connection: &mut PgConnection,
    ) -> Result<(), FrontierError> {
        if window.counts_one_by_one == Some(true) && !window.hides_events {
            return Ok(());
        }
        let conditions = self.sequence.read_conditions(connection).await?;
        self.sequence.check(&conditions)?;
        Err(no_proof("the sequence or the security of the log was changed in between").into())
    }

    async fn read_window(&self, connection: &mut PgConnection) -> Result<Window, FrontierError> {
        let sequence = &self.sequence;
        let numbers = [self.settled, sequence.relation, sequence.events];
        let window = with_numbers(&self.window, &numbers);
        let row = sqlx::raw_sql(window).fetch_one(connection).await?;
        let marker = Marker::expect(&row)?;
        if marker.is_standby {
            return Err(FrontierError::Log(LogProblem::Standby));
        }
        Ok(Window {
            head: row.try_get("head")?,
            contiguous: row.try_get("contiguous")?,
            below_one: row.try_get("below_one")?,
            last_value: row.try_get("last_value")?,
            counts_one_by_one: row.try_get("counts_one_by_one")?,
            hides_events: marker.hides_events,
            incarnation: marker.incarnation,
        })
    }

    /// Reads which transactions may still fill a gap, after the rows have been read.
    async fn weigh_evidence(
        &mut self,
        connection: &mut PgConnection,
        highest: i64,
    ) -> Result<(), sqlx::Error> {
        let now = self.read_holders(connection).await?;
        for generation in &mut self.generations {
            // A transaction that came later drew a later position.
            generation.holders.retain(|holder| now.contains(holder));
        }
        let newest = self
            .generations
            .back()
            .map_or(self.settled, |last| last.highest);
        if highest > newest {
            // The newest is dropped: it is the last that will settle anything.
            self.generations.truncate(MAX_GENERATIONS - 1);
            self.generations.push_back(Generation {
                highest,
                holders: now,
            });
        }
        let settled = self
            .generations
            .iter()
            .rev()
            .find(|generation| generation.holders.is_empty())
            .map(|generation| generation.highest);
        if let Some(settled) = settled {
            self.settle(settled);
        }
        Ok(())
    }

    async fn read_holders(
        &self,
        connection: &mut PgConnection,
    ) -> Result<HashSet<String>, sqlx::Error> {
        let holders = with_numbers(HOLDERS, &[self.sequence.relation]);
        let rows = sqlx::raw_sql(holders).fetch_all(connection).await?;
        let (mut holders, mut marker) = (HashSet::new(), None);
        for row in &rows {
            match Marker::decode(row)? {
                Some(found) => marker = Some(found),
                None => _ = holders.insert(row.try_get("holder")?),
            }
        }
        refuse_foreign(marker, self.incarnation)?;
        Ok(holders)
    }

    fn settle(&mut self, position: i64) {
        self.settled = self.settled.max(position);
        let settled = self.settled;
        self.generations
            .retain(|generation| generation.highest > settled);
    }

    /// Whether the next worker should not have to find the frontier again: it finds contiguous positions at
    /// no cost, but would wait at a gap for each transaction that is open then.
    fn is_worth_saving(&self, before: i64) -> bool {
        const WORTH_SAVING: i64 = 1_000;
        // Not before consumers are told what has just been settled.
        let is_quiet = self.settled == before;
        let has_gap = self.has_passed_gap && is_quiet;
        (has_gap || self.settled - self.durable >= WORTH_SAVING) && self.saves.is_due()
    }

    async fn save(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        /// The shortest pause between two saves, each of which leaves a dead version of the row.
        const PAUSE: Duration = Duration::from_secs(1);
        let began = Instant::now();
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        self.statements
            .save_frontier
            .query()
            .bind(&*self.log)
            .bind(self.settled)
            .bind(self.incarnation.started)
            .bind(self.incarnation.recovered)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.durable = self.settled;
        self.has_passed_gap = false;
        self.saves.pause(began.elapsed(), PAUSE);
        Ok(())
    }
}

/// Finds the sequence that positions are drawn from, and refuses one that proves nothing.
async fn sequence(
    settings: &StoreSettings,
    connection: &mut PgConnection,
) -> Result<Sequence, FrontierError> {
    refuse_old_server(connection).await?;
    let position = settings.schema.column_name(Column::GlobalPosition);
    let sequence = Sequence::find(settings, connection, position).await?;
    sequence.check(&sequence.read_conditions(connection).await?)?;
    if !sequence.is_readable {
        tracing::warn!(
            sequence = sequence.name,
            "the role has no SELECT on the sequence of the log, so a reset of the log is detected only while its head is below the last settled position; `GRANT SELECT ON SEQUENCE {} TO CURRENT_USER` makes detection exact",
            sequence.name
        );
    }
    Ok(sequence)
}

/// Whether the transaction of the backend `$2` has the lock of one that drew a position.
const DRAWN: &str = concat!(
    "
    SELECT EXISTS (SELECT FROM pg_locks
                    WHERE locktype = 'relation' AND granted AND relation = $1::oid
                      AND mode = 'RowExclusiveLock' AND pid = $2) AS seen, ",
    server_marker!(),
    " AS marker"
);

/// Draws from a sequence in an open transaction and looks for its lock from another connection: on a server
/// that does not show it, events would be lost. A standby does not show the locks of its primary either.
async fn probe(
    pool: &PgPool,
    connection: &mut PgConnection,
    sequence: &Sequence,
    incarnation: Incarnation,
) -> Result<(), FrontierError> {
    let mut writer = acquire(pool).await?;
    // One that reached a standby would come from the pool again and again.
    writer.close_on_drop();
    let mut writer = writer.begin_with(BEGIN_WRITE).await?;
    // Positions of another program's log must not be drawn. The sequence ends with the transaction.
    let draw = if sequence.is_read_only {
        "CREATE TEMPORARY SEQUENCE consumer_probe;
         SELECT pg_backend_pid()::bigint, nextval('pg_temp.consumer_probe'),
                'pg_temp.consumer_probe'::regclass::oid::bigint"
    } else {
        "SELECT pg_backend_pid()::bigint, nextval($1::oid::regclass), $1::bigint"
    };
    let drawn = sqlx::raw_sql(with_numbers(draw, &[sequence.relation]))
        .fetch_one(&mut *writer)
        .await;
    let drawn = match drawn {
        Ok(drawn) => drawn,
        // sequence_generator_limit_exceeded: no position is left for any writer.
        Err(sqlx::Error::Database(error)) if has_code(error.as_ref(), &["2200H"]) => {
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let look = with_numbers(DRAWN, &[drawn.try_get(2)?, drawn.try_get(0)?]);
    let looked = sqlx::raw_sql(look).fetch_one(&mut *connection).await?;
    refuse_foreign(Marker::decode(&looked)?, incarnation)?;
    let seen: bool = looked.try_get("seen")?;
    writer.rollback().await?;
    if seen {
        Ok(())
    } else {
        Err(FrontierError::Log(LogProblem::InvisibleLocks {
            name: sequence.name.clone(),
        }))
    }
}
