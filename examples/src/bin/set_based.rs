//! The same read model twice: with one statement per event, and with one statement per batch.
//!
//! `cargo run --release -p consumer-examples --bin set_based` fills a SQLite log in memory, lets both
//! consumers catch up, and prints how many events a second each handled.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use consumer::columns::{json_rows, last_of_each};
use consumer::prelude::*;
use consumer::sqlx;
use serde::{Deserialize, Serialize};

/// The price of an article has changed.
#[derive(Serialize, Deserialize, Event)]
#[event(aggregate = "Article")]
struct PriceChanged {
    cents: i64,
}

/// One statement per event: the simplest form, and fast enough for most read models.
struct Prices;

// The program runs one of the two at a time: neither is the other under a new name.
#[consumer(name = "prices", aggregates = ["Article"], formerly = none)]
impl Prices {
    #[on]
    async fn changed(
        &self,
        tx: &mut SqliteConnection,
        event: Envelope<'_, PriceChanged>,
    ) -> sqlx::Result<()> {
        sqlx::query(
            "INSERT INTO prices (article, cents) VALUES (?1, ?2)
             ON CONFLICT (article) DO UPDATE SET cents = excluded.cents",
        )
        .bind(&event.aggregate_id)
        .bind(event.payload.cents)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// One statement per batch: the last price of each article, all of them in one parameter.
struct PricesInSets;

#[consumer(
    name = "prices_in_sets",
    aggregates = ["Article"],
    formerly = none,
    batch_size = 1000
)]
impl PricesInSets {
    #[on]
    async fn changed(
        &self,
        tx: &mut SqliteConnection,
        events: &[Envelope<'_, PriceChanged>],
    ) -> Result<(), HandlerError> {
        let newest = last_of_each(events, |event| &event.record.aggregate_id);
        let rows = json_rows(&newest, |event| {
            (&event.record.aggregate_id, event.payload.cents)
        })?;
        // Without `WHERE true`, SQLite would take `ON` for the condition of a join. On Postgres, the
        // rows would come from `UNNEST($1::text[], $2::bigint[])`, with a `columns::column` for each.
        sqlx::query(
            "INSERT INTO prices_in_sets (article, cents)
             SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true
             ON CONFLICT (article) DO UPDATE SET cents = excluded.cents",
        )
        .bind(rows)
        .execute(tx)
        .await?;
        Ok(())
    }
}

const ARTICLES: i64 = 1_000;
const CHANGES: i64 = 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let store = SqliteEventStore::connect("sqlite::memory:").await?;
    store.migrate().await?;
    sqlx::raw_sql(
        "CREATE TABLE prices (article TEXT PRIMARY KEY, cents INTEGER NOT NULL);
         CREATE TABLE prices_in_sets (article TEXT PRIMARY KEY, cents INTEGER NOT NULL)",
    )
    .execute(store.pool())
    .await?;
    fill(&store).await?;

    let one_by_one = catch_up(Worker::builder(store.clone()).consumer(Prices)).await?;
    let in_sets = catch_up(Worker::builder(store.clone()).consumer(PricesInSets)).await?;
    println!("one statement per event: {one_by_one:>10.0} events/s");
    println!("one statement per batch: {in_sets:>10.0} events/s");

    let differing: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM prices FULL JOIN prices_in_sets AS s USING (article)
          WHERE prices.cents IS NOT s.cents",
    )
    .fetch_one(store.pool())
    .await?;
    ensure!(
        differing == 0,
        "the two read models differ in {differing} articles"
    );
    Ok(())
}

async fn fill(store: &SqliteEventStore) -> anyhow::Result<()> {
    let mut tx = store.begin().await?;
    for article in 0..ARTICLES {
        let changes: Vec<NewEvent> = (0..CHANGES)
            .map(|change| {
                let cents = article * 100 + change;
                NewEvent::json(
                    "Article",
                    format!("a-{article}"),
                    "PriceChanged",
                    &PriceChanged { cents },
                )
            })
            .collect::<Result<_, _>>()?;
        store
            .append_in(&mut tx, ExpectedVersion::NoStream, &changes)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Lets a worker catch up, and returns how many events it handled per second.
async fn catch_up(builder: consumer::WorkerBuilder<consumer::sqlx::Sqlite>) -> anyhow::Result<f64> {
    let worker = builder.build()?;
    let start = Instant::now();
    let report = worker.run_once().await?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(!report.has_failures(), "{report}");
    let handled = report
        .consumers
        .first()
        .context("the report contains no consumer")?
        .events;
    Ok(f64::from(u32::try_from(handled)?) / seconds)
}
