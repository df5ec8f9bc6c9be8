//! The quickstart: three consumers, some events, one run of a worker, and a summary.
//!
//! The code is the same on both databases. `Database` is the one that the program is for.

use anyhow::ensure;
use consumer::prelude::*;
use consumer::{EventStore, Report, sqlx};
use tokio::io::AsyncWriteExt as _;

use crate::Database;

type Connection = <Database as sqlx::Database>::Connection;

/// The payload of a user's events.
#[derive(serde::Deserialize)]
struct Email {
    email: String,
}

/// A read model, written through the transaction that also saves the checkpoint.
#[derive(Default)]
struct UserReadModel;

#[consumer(name = "user_read_model", aggregates = ["User"])]
impl UserReadModel {
    async fn handle(&self, tx: &mut Connection, event: &PersistedEvent) -> anyhow::Result<()> {
        let user: Email = event.json()?;
        sqlx::query(
            "INSERT INTO users (id, email, changes) VALUES ($1, $2, 0)
             ON CONFLICT (id) DO UPDATE SET email = excluded.email, changes = users.changes + 1",
        )
        .bind(&event.aggregate_id)
        .bind(user.email)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// A read model over two types of aggregates.
#[derive(Default)]
struct Activity;

#[consumer(name = "activity", aggregates = ["User", "Order"])]
impl Activity {
    async fn handle(&self, tx: &mut Connection, event: &PersistedEvent) -> sqlx::Result<()> {
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

/// A consumer of every event that does not write to this database. It has no `tx`, and runs on any.
#[derive(Default)]
struct Announcer;

#[consumer(name = "system.integration.announcer")]
impl Announcer {
    async fn handle(&self, event: &PersistedEvent) -> std::io::Result<()> {
        let (position, kind) = (event.global_position, &event.event_type);
        let line = format!("announced {position:>3} {kind}\n");
        let mut out = tokio::io::stdout();
        out.write_all(line.as_bytes()).await?;
        out.flush().await
    }
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, email TEXT NOT NULL, changes BIGINT NOT NULL);
    CREATE TABLE IF NOT EXISTS activity (kind TEXT PRIMARY KEY, events BIGINT NOT NULL)";

/// Creates the tables, appends some events, and handles everything that is in the log.
pub(crate) async fn run(store: EventStore<Database>) -> anyhow::Result<()> {
    store.migrate().await?;
    sqlx::raw_sql(TABLES).execute(store.pool()).await?;

    append_some_events(&store).await?;
    let report = Worker::builder(store.clone())
        .discover()
        .build()?
        .run_once()
        .await?;

    print_read_models(&store).await?;
    print_checkpoints(&report);
    ensure!(
        !report.has_failures(),
        "a consumer did not handle everything"
    );
    Ok(())
}

/// Appends the events of two users and an order, which are new ones in each run.
async fn append_some_events(store: &EventStore<Database>) -> anyhow::Result<()> {
    let run = store
        .latest_global_position(&mut *store.pool().acquire().await?)
        .await?;
    for name in ["ada", "grace"] {
        let id = format!("{name}-{run}");
        let registered = format!(r#"{{"email":"{name}@example.com"}}"#);
        let changed = format!(r#"{{"email":"{name}@example.org"}}"#);
        let history = [
            NewEvent::new("User", &*id, "UserRegistered", registered),
            NewEvent::new("User", &*id, "EmailChanged", changed),
        ];
        store.append(ExpectedVersion::NoStream, &history).await?;
    }
    let order = format!("o-{run}");
    let placed = NewEvent::new("Order", order, "OrderPlaced", r#"{"total":42}"#);
    store.append(ExpectedVersion::NoStream, &[placed]).await?;
    Ok(())
}

async fn print_read_models(store: &EventStore<Database>) -> sqlx::Result<()> {
    let users: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT id, email, changes FROM users ORDER BY id")
            .fetch_all(store.pool())
            .await?;
    println!("\n{:<12} {:<20} {:>7}", "user", "email", "changes");
    for (id, email, changes) in users {
        println!("{id:<12} {email:<20} {changes:>7}");
    }

    let activity: Vec<(String, i64)> =
        sqlx::query_as("SELECT kind, events FROM activity ORDER BY kind")
            .fetch_all(store.pool())
            .await?;
    println!("\n{:<33} {:>7}", "activity", "events");
    for (kind, events) in activity {
        println!("{kind:<33} {events:>7}");
    }
    Ok(())
}

fn print_checkpoints(report: &Report) {
    let header = ("consumer", "checkpoint", "events");
    println!("\n{:<30} {:>10} {:>8}  state", header.0, header.1, header.2);
    for consumer in &report.consumers {
        let position = consumer.position.unwrap_or_default();
        let (name, events, state) = (&consumer.id.name, consumer.events, &consumer.state);
        println!("{name:<30} {position:>10} {events:>8}  {state}");
    }
}
