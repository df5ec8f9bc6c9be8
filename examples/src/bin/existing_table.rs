//! The program of the guide to existing tables: it maps a table that another program has made, appends to
//! it, and consumes from it.
//!
//! `DATABASE_URL=postgres://postgres@localhost/shop cargo run -p consumer-examples --bin existing_table`.

use consumer::prelude::*;
use consumer::{Column, Schema, SqlType, StoreError, sqlx};
use serde::{Deserialize, Serialize};

/// As the migrations of the other program have it.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS order_events (
    seq BIGSERIAL PRIMARY KEY,
    id UUID NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    order_id UUID NOT NULL,
    version INT NOT NULL,
    kind VARCHAR(100) NOT NULL,
    data JSONB NOT NULL,
    occurred_at TIMESTAMP NOT NULL DEFAULT now(),
    UNIQUE (order_id, version))";

/// The names, as a first attempt.
fn names() -> Schema {
    Schema::default()
        .events("order_events")
        .aggregate_heads("order_heads")
        .column(Column::GlobalPosition, "seq")
        .constant(Column::AggregateType, "Order")
        .column(Column::AggregateId, "order_id")
        .column(Column::AggregateVersion, "version")
        .column(Column::EventId, "id")
        .column(Column::EventType, "kind")
        .column(Column::Payload, "data")
        .column(Column::CreatedAt, "occurred_at")
}

/// The names, with the lines that the first attempt is told to add.
fn schema() -> Schema {
    names()
        .sql_type(Column::AggregateId, SqlType::Uuid)
        .sql_type(Column::AggregateVersion, SqlType::Integer)
        .constant(Column::EventVersion, 1)
        .sql_type(Column::Payload, SqlType::Jsonb)
        .without(Column::TraceId)
        .without(Column::CorrelationId)
        .without(Column::CausationId)
        .without(Column::Metadata)
        .sql_type(Column::CreatedAt, SqlType::Timestamp)
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
enum OrderEvent {
    Placed { total: i64 },
    Paid,
}

#[derive(Default)]
struct Revenue;

#[consumer(name = "revenue", aggregates = [OrderEvent])]
impl Revenue {
    #[on]
    async fn on(
        &self,
        tx: &mut PgConnection,
        event: Envelope<'_, OrderEvent>,
    ) -> Result<(), sqlx::Error> {
        if let OrderEvent::Placed { total } = event.payload {
            sqlx::query("INSERT INTO revenue VALUES ($1::uuid, $2) ON CONFLICT DO NOTHING")
                .bind(&event.aggregate_id)
                .bind(total)
                .execute(tx)
                .await?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL")?;
    let store = PgEventStore::connect(&url).await?;
    sqlx::raw_sql(TABLE).execute(store.pool()).await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS revenue (order_id UUID PRIMARY KEY, total BIGINT)")
        .execute(store.pool())
        .await?;

    match store.clone().with_schema(names())?.migrate().await {
        Err(StoreError::Mismatches { mismatches, .. }) => {
            for mismatch in mismatches {
                println!("{}", mismatch.remedy());
            }
        }
        other => other?,
    }
    let store = store.with_schema(schema())?;
    store.migrate().await?;

    let order = uuid::Uuid::now_v7().to_string();
    let placed = [OrderEvent::Placed { total: 42 }, OrderEvent::Paid];
    let mut tx = store.begin().await?;
    store
        .append_typed(&mut tx, &order, ExpectedVersion::NoStream, &placed)
        .await?;
    tx.commit().await?;

    let report = Worker::builder(store.clone())
        .consumer(Revenue)
        .build()?
        .run_once()
        .await?;
    anyhow::ensure!(!report.has_failures(), "{report}");
    let revenue: i64 = sqlx::query_scalar("SELECT sum(total)::bigint FROM revenue")
        .fetch_one(store.pool())
        .await?;
    println!("revenue: {revenue}");
    Ok(())
}
