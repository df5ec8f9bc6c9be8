//! The consumers that are measured.

use std::sync::Arc;

use consumer::columns::{column, json_rows};
use consumer::prelude::*;
use consumer::{Context, OnError, Settings};
use sqlx::Database;

pub(crate) const UPSERT: &str = "
INSERT INTO balances (id, deposits, position) VALUES ($1, 1, $2)
ON CONFLICT (id) DO UPDATE SET deposits = balances.deposits + 1, position = excluded.position";

/// One row an aggregate: a statement must not touch a row twice.
pub(crate) const UPSERT_MANY: &str = "
INSERT INTO balances (id, deposits, position)
SELECT id, count(*), max(position) FROM UNNEST($1::text[], $2::bigint[]) AS e (id, position)
 GROUP BY id
ON CONFLICT (id) DO UPDATE
   SET deposits = balances.deposits + excluded.deposits, position = excluded.position";

/// `WHERE true` tells SQLite that `ON` begins no join.
pub(crate) const UPSERT_MANY_SQLITE: &str = "
INSERT INTO balances (id, deposits, position)
SELECT value ->> 0, count(*), max(value ->> 1) FROM json_each(?1) WHERE true GROUP BY 1
ON CONFLICT (id) DO UPDATE
   SET deposits = balances.deposits + excluded.deposits, position = excluded.position";

/// One statement per event.
pub(crate) struct RowsPostgres;

#[consumer(name = "bench.rows.postgres", formerly = none)]
impl RowsPostgres {
    async fn handle(&self, tx: &mut PgConnection, event: &PersistedEvent) -> sqlx::Result<()> {
        sqlx::query(UPSERT)
            .bind(&event.aggregate_id)
            .bind(event.global_position)
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// One statement per batch.
pub(crate) struct SetsPostgres;

#[consumer(name = "bench.sets.postgres", formerly = none, batch_size = 1000)]
impl SetsPostgres {
    async fn handle(&self, tx: &mut PgConnection, events: &[PersistedEvent]) -> sqlx::Result<()> {
        let ids: Vec<&str> = column(events, |event| &*event.aggregate_id);
        let positions: Vec<i64> = column(events, |event| event.global_position);
        sqlx::query(UPSERT_MANY)
            .bind(ids)
            .bind(positions)
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// One statement per event.
pub(crate) struct RowsSqlite;

#[consumer(name = "bench.rows.sqlite", formerly = none)]
impl RowsSqlite {
    async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> sqlx::Result<()> {
        sqlx::query(UPSERT)
            .bind(&event.aggregate_id)
            .bind(event.global_position)
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// One statement per batch.
pub(crate) struct SetsSqlite;

#[consumer(name = "bench.sets.sqlite", formerly = none, batch_size = 1000)]
impl SetsSqlite {
    async fn handle(
        &self,
        tx: &mut SqliteConnection,
        events: &[PersistedEvent],
    ) -> Result<(), HandlerError> {
        let rows = json_rows(events, |event| (&event.aggregate_id, event.global_position))?;
        sqlx::query(UPSERT_MANY_SQLITE)
            .bind(rows)
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// Does nothing with any event, in a transaction, under any name and scope.
pub(crate) struct Nothing {
    pub(crate) name: Arc<str>,
    pub(crate) scope: &'static [&'static str],
}

impl Nothing {
    pub(crate) fn named(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            scope: &[],
        }
    }

    pub(crate) fn scoped(name: impl Into<Arc<str>>, scope: &'static [&'static str]) -> Self {
        Self {
            name: name.into(),
            scope,
        }
    }
}

impl<DB: Database> Consumer<DB> for Nothing {
    fn formerly(&self) -> consumer::Formerly {
        consumer::Formerly::None
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn scope(&self) -> &[&str] {
        ScopedConsumer::<DB>::aggregate_types(self)
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        std::hint::black_box(event);
        Ok(())
    }
}

impl<DB: Database> ScopedConsumer<DB> for Nothing {
    fn aggregate_types(&self) -> &[&str] {
        self.scope
    }
}

/// Parks the rare events.
pub(crate) struct Parks;

impl<DB: Database> Consumer<DB> for Parks {
    fn formerly(&self) -> consumer::Formerly {
        consumer::Formerly::None
    }

    fn name(&self) -> &str {
        "parks"
    }

    fn scope(&self) -> &[&str] {
        ScopedConsumer::<DB>::aggregate_types(self)
    }

    fn settings(&self) -> Settings {
        Settings::default().retries(0).on_error(OnError::Park)
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut DB::Connection,
        _: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Err("the server refused the recipient".into())
    }
}

impl<DB: Database> ScopedConsumer<DB> for Parks {
    fn aggregate_types(&self) -> &[&str] {
        &["Rare"]
    }
}
