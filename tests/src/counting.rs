//! A server that counts what statements cost.

use sqlx::Postgres;

use crate::{Database, TestPostgres};

/// A server that counts statements, and where to ask it.
pub struct Counting {
    /// The server.
    pub server: TestPostgres,
    asked: Database<Postgres>,
}

impl Counting {
    /// Starts the server.
    pub async fn start() -> Self {
        let server = TestPostgres::builder()
            .setting("shared_preload_libraries", "pg_stat_statements")
            // Not those inside functions.
            .setting("pg_stat_statements.track", "top")
            .start();
        let asked = Database::on(&server).await;
        asked.execute("CREATE EXTENSION pg_stat_statements").await;
        Self { server, asked }
    }

    /// The number of statements that clients have run in a database, without some.
    pub async fn statements(&self, db: &Database<Postgres>, unlike: &str) -> i64 {
        self.sum(db, "calls", &format!("query !~ '{unlike}'")).await
    }

    /// How often statements that match a pattern were run in a database.
    pub async fn calls(&self, db: &Database<Postgres>, like: &str) -> i64 {
        self.sum(db, "calls", &format!("query ~ '{like}'")).await
    }

    /// How many rows statements that match a pattern returned in a database.
    pub async fn rows(&self, db: &Database<Postgres>, like: &str) -> i64 {
        self.sum(db, "rows", &format!("query ~ '{like}'")).await
    }

    /// The pages that statements which match a pattern have looked at, as often as they did.
    pub async fn pages(&self, db: &Database<Postgres>, like: &str) -> i64 {
        let pages = "shared_blks_hit + shared_blks_read";
        self.sum(db, pages, &format!("query ~ '{like}'")).await
    }

    /// How long statements that match a pattern took in a database, in microseconds: all together, and the
    /// longest.
    pub async fn micros(&self, db: &Database<Postgres>, like: &str) -> (i64, i64) {
        let matching = format!("query ~ '{like}'");
        let all = self.of(db, "sum(total_exec_time) * 1000", &matching).await;
        let longest = self.of(db, "max(max_exec_time) * 1000", &matching).await;
        (all, longest)
    }

    /// Starts to count anew.
    pub async fn forget(&self) {
        let reset = "SELECT pg_stat_statements_reset()";
        self.asked.execute(reset).await;
    }

    async fn sum(&self, db: &Database<Postgres>, what: &str, condition: &str) -> i64 {
        self.of(db, &format!("sum({what})"), condition).await
    }

    async fn of(&self, db: &Database<Postgres>, what: &str, condition: &str) -> i64 {
        let sql = format!(
            "SELECT coalesce({what}, 0)::bigint FROM pg_stat_statements
              WHERE {condition}
                AND dbid = (SELECT oid FROM pg_database WHERE datname = '{}')",
            db.name()
        );
        self.asked.number(&sql).await
    }
}
