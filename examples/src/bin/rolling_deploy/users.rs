//! The consumer that both releases have.

use consumer::prelude::*;
use consumer::sqlx;

/// A read model of registered users.
pub(crate) struct Users;

#[consumer(name = "users", aggregates = ["User"])]
impl Users {
    async fn handle(
        &self,
        tx: &mut PgConnection,
        event: &PersistedEvent,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO users (id) VALUES ($1)")
            .bind(&event.aggregate_id)
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// Creates missing tables, and runs the consumers of this release until the process is asked to end.
///
/// Both releases create the tables when they start, in any order or at the same time.
pub(crate) async fn run(tables: &'static str) -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").map_err(|_| {
        anyhow::anyhow!("`DATABASE_URL` is not set: write `postgres://user:password@host/database`")
    })?;
    let store = PgEventStore::connect(&url).await?;
    store.migrate().await?;
    sqlx::raw_sql(tables).execute(store.pool()).await?;
    let worker = Worker::builder(store).discover().build()?;
    print!("{}", worker.run(shutdown_signal()).await?);
    Ok(())
}
