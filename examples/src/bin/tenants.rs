//! The program of the guide to tenants: a schema for each, and a worker for each schema, in one process.
//!
//! `DATABASE_URL=postgres://postgres@localhost/shop cargo run -p consumer-examples --bin tenants acme umbrella`.

use std::time::Duration;

use consumer::prelude::*;
use consumer::sqlx::postgres::PgPoolOptions;
use consumer::{Schema, sqlx};
use tokio::task::JoinSet;

#[derive(Default)]
struct Users;

#[consumer(name = "users", aggregates = ["User"])]
impl Users {
    async fn handle(
        &self,
        cx: &Context,
        tx: &mut PgConnection,
        event: &PersistedEvent,
    ) -> Result<(), sqlx::Error> {
        // The table of the tenant whose log this is.
        sqlx::query("INSERT INTO users VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(&event.aggregate_id)
            .execute(tx)
            .await?;
        println!("{}: {}", cx.log(), event.aggregate_id);
        Ok(())
    }
}

/// A store in a tenant's schema, with its tables.
async fn store_of(tenant: &str, pool: &sqlx::PgPool) -> anyhow::Result<PgEventStore> {
    let schema = Schema::default().database_schema(tenant).in_search_path();
    let store = PgEventStore::new(pool.clone()).with_schema(schema)?;
    store.migrate().await?;
    let users = format!("CREATE TABLE IF NOT EXISTS \"{tenant}\".users (id TEXT PRIMARY KEY)");
    sqlx::raw_sql(sqlx::AssertSqlSafe(users))
        .execute(store.pool())
        .await?;
    Ok(store)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL")?;
    let tenants: Vec<String> = std::env::args().skip(1).collect();
    let pool = PgPoolOptions::new()
        // Three for each worker, and some for the rest of the program.
        .max_connections(3 * u32::try_from(tenants.len())? + 5)
        .connect(&url)
        .await?;

    let mut workers = JoinSet::new();
    let mut handles = Vec::new();
    for tenant in &tenants {
        let store = store_of(tenant, &pool).await?;
        let event = NewEvent::new("User", format!("{tenant}'s user"), "UserRegistered", "{}");
        store.append(ExpectedVersion::Any, &[event]).await?;
        let worker = Worker::builder(store)
            .consumer(Users)
            // With many tenants, poll less often.
            .poll_interval(Duration::from_secs(1))
            .build()?;
        handles.push(worker.handle());
        workers.spawn(worker.run(std::future::pending()));
    }
    for handle in handles {
        handle.caught_up().await?;
        handle.shut_down();
    }
    while let Some(ended) = workers.join_next().await {
        anyhow::ensure!(!ended??.has_failures(), "a consumer has failed");
    }
    Ok(())
}
