//! Everything in one file, on Postgres: declare consumers, append events, run a worker.
//!
//! `DATABASE_URL=postgres://… cargo run -p consumer-examples --bin quickstart_postgres`, and again
//! to see that it goes on where it stopped.

use anyhow::{Context as _, ensure};
use consumer::prelude::*;
use consumer::sqlx;
use consumer_examples::quickstart::{append_some_events, print_summary};
use tokio::io::AsyncWriteExt as _;

/// What the events of a user carry.
#[derive(serde::Deserialize)]
struct Email {
    email: String,
}

/// A read model: written through the transaction that also saves the checkpoint.
#[derive(Default)]
struct UserReadModel;

#[consumer(name = "user_read_model", aggregates = ["User"])]
impl UserReadModel {
    async fn handle(&self, tx: &mut PgConnection, event: &PersistedEvent) -> anyhow::Result<()> {
        let user: Email = event.json()?;
        sqlx::query(
            "INSERT INTO users (id, email, changes) VALUES ($1, $2, 0)
             ON CONFLICT (id) DO UPDATE SET email = $2, changes = users.changes + 1",
        )
        .bind(&event.aggregate_id)
        .bind(user.email)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// A read model of two kinds of aggregates.
#[derive(Default)]
struct Activity;

#[consumer(name = "activity", aggregates = ["User", "Order"])]
impl Activity {
    async fn handle(
        &self,
        tx: &mut PgConnection,
        event: &PersistedEvent,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO activity (kind, events) VALUES ($1, 1)
             ON CONFLICT (kind) DO UPDATE SET events = activity.events + 1",
        )
        .bind(&*event.event_type)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// A consumer of every event whose target is not this database: it has no `tx`, and runs on any.
#[derive(Default)]
struct Announcer;

#[consumer(name = "system.integration.announcer")]
impl Announcer {
    async fn handle(&self, event: &PersistedEvent) -> Result<(), std::io::Error> {
        let line = format!(
            "announced {:>3} {}\n",
            event.global_position, event.event_type
        );
        let mut out = tokio::io::stdout();
        out.write_all(line.as_bytes()).await?;
        out.flush().await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL")
        .context("DATABASE_URL is not set: write postgres://user:password@host/database")?;
    let store = PgEventStore::connect(&url).await?;
    store.migrate().await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, email TEXT NOT NULL, changes BIGINT NOT NULL);
         CREATE TABLE IF NOT EXISTS activity (kind TEXT PRIMARY KEY, events BIGINT NOT NULL)",
    )
    .execute(store.pool())
    .await?;

    append_some_events(&store).await?;
    let report = Worker::builder(store.clone())
        .discover()
        .build()?
        .run_once()
        .await?;

    let users = sqlx::query_as("SELECT id, email, changes FROM users ORDER BY id")
        .fetch_all(store.pool())
        .await?;
    let activity = sqlx::query_as("SELECT kind, events FROM activity ORDER BY kind")
        .fetch_all(store.pool())
        .await?;
    print_summary(&users, &activity, &report)?;
    ensure!(
        !report.has_failures(),
        "a consumer did not handle everything"
    );
    Ok(())
}
