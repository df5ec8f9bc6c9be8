//! The fold that one would write by hand: load the rows of a batch, count in memory, write them back.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use consumer::prelude::*;
use consumer::{Backend, BatchError, Context, Settings};
use sqlx::{AssertSqlSafe, Postgres, Row as _, Sqlite};

use crate::rows::{Row, changed_column, columns};

/// A consumer with such a handler.
pub(crate) struct ByHandFold<R>(PhantomData<fn() -> R>);

impl<R> Default for ByHandFold<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// The numbers of rows, by key.
type Rows = BTreeMap<String, Vec<i64>>;

impl<R: Row> ByHandFold<R> {
    /// Counts the events.
    fn count(mut rows: Rows, events: &[PersistedEvent]) -> Rows {
        for event in events {
            let new = || vec![0; R::NUMBERS];
            let row = rows.entry(event.aggregate_id.clone()).or_insert_with(new);
            row[0] += 1;
            row[1] = event.global_position;
            if let Some(column) = row.get_mut(2 + changed_column(event)) {
                *column += 1;
            }
        }
        rows
    }

    fn select() -> String {
        let columns: Vec<String> = columns::<R>().collect();
        format!("SELECT {} FROM {}", columns.join(", "), R::BY_HAND)
    }

    fn insert(values: &str) -> String {
        let columns: Vec<String> = columns::<R>().collect();
        let update = columns.iter().skip(1);
        let update: Vec<String> = update
            .map(|column| format!("{column} = excluded.{column}"))
            .collect();
        format!(
            "INSERT INTO {} ({}) {values} ON CONFLICT (id) DO UPDATE SET {}",
            R::BY_HAND,
            columns.join(", "),
            update.join(", ")
        )
    }
}

fn ids(events: &[PersistedEvent]) -> Vec<&str> {
    let mut ids: Vec<&str> = events.iter().map(|event| &*event.aggregate_id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("the rows as JSON")
}

impl<DB: Backend, R: Row> Consumer<DB> for ByHandFold<R>
where
    Self: Fold<DB>,
{
    fn formerly(&self) -> consumer::Formerly {
        consumer::Formerly::None
    }

    fn name(&self) -> &str {
        Self::NAME
    }

    async fn handle(
        &self,
        _: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(self.fold(tx, std::slice::from_ref(event)).await?)
    }

    async fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> Result<usize, BatchError> {
        cx.enter_several();
        let folded = self.fold(tx, events).await;
        folded.map_err(|error| BatchError::within(0, events.len(), error))?;
        Ok(events.len())
    }

    fn settings(&self) -> Settings {
        Settings::default().batch_size(1_000)
    }
}

/// Folds a batch.
trait Fold<DB: sqlx::Database> {
    /// The name of its consumer.
    const NAME: &'static str;

    fn fold(
        &self,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> impl Future<Output = sqlx::Result<()>> + Send;
}

impl<R: Row> Fold<Postgres> for ByHandFold<R> {
    const NAME: &'static str = "bench.by_hand.postgres";

    async fn fold(&self, tx: &mut PgConnection, events: &[PersistedEvent]) -> sqlx::Result<()> {
        let select = format!("{} WHERE id = ANY ($1)", Self::select());
        let found = sqlx::query(AssertSqlSafe(select)).bind(ids(events));
        let mut rows = Rows::new();
        for row in found.fetch_all(&mut *tx).await? {
            let numbers = (1..=R::NUMBERS).map(|index| row.try_get(index));
            rows.insert(row.try_get(0)?, numbers.collect::<sqlx::Result<_>>()?);
        }
        let rows = Self::count(rows, events);
        let arrays: Vec<String> = (0..R::NUMBERS)
            .map(|index| format!("${}::bigint[]", index + 2))
            .collect();
        let values = format!("SELECT * FROM UNNEST($1::text[], {})", arrays.join(", "));
        let ids: Vec<&str> = rows.keys().map(String::as_str).collect();
        let mut insert = sqlx::query(AssertSqlSafe(Self::insert(&values))).bind(ids);
        for column in 0..R::NUMBERS {
            let numbers: Vec<i64> = rows.values().map(|row| row[column]).collect();
            insert = insert.bind(numbers);
        }
        insert.execute(tx).await.map(drop)
    }
}

impl<R: Row> Fold<Sqlite> for ByHandFold<R> {
    const NAME: &'static str = "bench.by_hand.sqlite";

    async fn fold(&self, tx: &mut SqliteConnection, events: &[PersistedEvent]) -> sqlx::Result<()> {
        let among = "WHERE id IN (SELECT value FROM json_each(?1))";
        let select = format!("{} {among}", Self::select());
        let found = sqlx::query(AssertSqlSafe(select)).bind(json(&ids(events)));
        let mut rows = Rows::new();
        for row in found.fetch_all(&mut *tx).await? {
            let numbers = (1..=R::NUMBERS).map(|index| row.try_get(index));
            rows.insert(row.try_get(0)?, numbers.collect::<sqlx::Result<_>>()?);
        }
        let rows = Self::count(rows, events);
        let numbers: Vec<String> = (0..R::NUMBERS)
            .map(|index| format!("value ->> '$[1][{index}]'"))
            .collect();
        // `WHERE true` tells SQLite that `ON` begins no join.
        let values = format!(
            "SELECT value ->> '$[0]', {} FROM json_each(?1) WHERE true",
            numbers.join(", ")
        );
        let rows: Vec<(&String, &Vec<i64>)> = rows.iter().collect();
        let insert = sqlx::query(AssertSqlSafe(Self::insert(&values))).bind(json(&rows));
        insert.execute(tx).await.map(drop)
    }
}
