//! The loop that one would write by hand.

use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};

use crate::consumers::UPSERT;

/// The settings of the loop.
#[derive(Clone, Copy)]
pub(crate) struct ByHand {
    pub(crate) batch: i64,
    /// The statement that reads.
    pub(crate) read: &'static str,
    pub(crate) handler: Handler,
    /// The statement of [`Handler::Rows`], which takes the id and the position.
    pub(crate) upsert: &'static str,
    /// Whether it runs in a task of its own: in `main` itself each answer wakes another thread.
    pub(crate) in_a_task: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Handler {
    Rows,
    Sets,
    Nothing,
}

impl ByHand {
    pub(crate) fn of(handler: Handler) -> Self {
        Self {
            batch: if handler == Handler::Sets { 1_000 } else { 500 },
            read: ALL_COLUMNS,
            handler,
            upsert: UPSERT,
            in_a_task: false,
        }
    }
}

/// The row as one would write it down, in place of our event.
#[derive(FromRow)]
#[allow(dead_code)]
pub(crate) struct Row<Id: Default, Metadata> {
    pub(crate) global_position: i64,
    #[sqlx(default)]
    aggregate_type: String,
    pub(crate) aggregate_id: String,
    #[sqlx(default)]
    aggregate_version: i64,
    #[sqlx(default)]
    event_id: Id,
    event_type: String,
    #[sqlx(default)]
    event_version: i32,
    payload: Vec<u8>,
    #[sqlx(default)]
    trace_id: Option<String>,
    #[sqlx(default)]
    correlation_id: Option<String>,
    #[sqlx(default)]
    causation_id: Option<String>,
    #[sqlx(default)]
    metadata: Option<Metadata>,
    #[sqlx(default)]
    created_at: DateTime<Utc>,
}

const ALL_COLUMNS: &str = "
SELECT global_position, aggregate_type, aggregate_id, aggregate_version, event_id, event_type,
       event_version, payload, trace_id, correlation_id, causation_id, metadata, created_at
  FROM events WHERE global_position > $1 ORDER BY global_position LIMIT $2";

pub(crate) const FOUR_COLUMNS: &str = "
SELECT global_position, aggregate_id, event_type, payload
  FROM events WHERE global_position > $1 ORDER BY global_position LIMIT $2";

/// Implements the loop for a database, which begins and locks the checkpoint in its own way. The module
/// has a type `Row` and a function `upsert_many`. A function would need a bound for each type that it binds.
macro_rules! loop_by_hand {
    ($pool:ident => $begin:expr, $checkpoint:literal) => {
        async fn by_hand($pool: sqlx::Pool<Self>, by_hand: ByHand) {
            loop {
                let mut tx = $begin.await.unwrap();
                let position: i64 = sqlx::query_scalar($checkpoint)
                    .bind("loop")
                    .fetch_one(&mut *tx)
                    .await
                    .unwrap();
                let rows: Vec<Row> = sqlx::query_as(by_hand.read)
                    .bind(position)
                    .bind(by_hand.batch)
                    .fetch_all(&mut *tx)
                    .await
                    .unwrap();
                let Some(last) = rows.last() else {
                    return tx.commit().await.unwrap();
                };
                match by_hand.handler {
                    Handler::Rows => {
                        for row in &rows {
                            sqlx::query(by_hand.upsert)
                                .bind(&row.aggregate_id)
                                .bind(row.global_position)
                                .execute(&mut *tx)
                                .await
                                .unwrap();
                        }
                    }
                    Handler::Sets => upsert_many(&mut tx, &rows).await,
                    Handler::Nothing => {
                        std::hint::black_box(&rows);
                    }
                }
                sqlx::query("UPDATE hand_made SET position = $2 WHERE name = $1")
                    .bind("loop")
                    .bind(last.global_position)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
            }
        }
    };
}
pub(crate) use loop_by_hand;
