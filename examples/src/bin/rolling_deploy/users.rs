//! The consumer that both releases have.

use consumer::prelude::*;
use consumer::sqlx;

/// Who is registered.
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

/// Makes the tables that are missing, and runs what this release has until it is asked to end.
///
/// Both releases do so at their start, in any order and at the same time.
pub(crate) async fn run(tables: &'static str) -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").map_err(|_| {
        anyhow::anyhow!("DATABASE_URL is not set: write postgres://user:password@host/database")
    })?;
    let store = PgEventStore::connect(&url).await?;
    store.migrate().await?;
    sqlx::raw_sql(tables).execute(store.pool()).await?;
    let worker = Worker::builder(store).discover().build()?;
    print!("{}", worker.run(shutdown_signal()).await?);
    Ok(())
}
