//! Faults on SQLite: a temporary trigger on every table, gone when the savepoint rolls back.

use sqlx::sqlite::{Sqlite, SqliteConnection};
use sqlx::{AssertSqlSafe, raw_sql};

use crate::backend::faults::Faults;

const COUNTER: &str = "
CREATE TEMP TABLE consumer_fault (writes INTEGER NOT NULL, fault INTEGER NOT NULL);
INSERT INTO temp.consumer_fault VALUES (0, 0);
";

/// A trigger for each table and kind of change. `FAIL` keeps the counter's own change.
const TRIGGERS: &str = "
SELECT 'CREATE TEMP TRIGGER \"consumer_fault_' || kind.column1 || '_' || replace(t.name, '\"', '') || '\"'
       || ' BEFORE ' || kind.column1 || ' ON main.\"' || replace(t.name, '\"', '\"\"') || '\" BEGIN'
       || ' UPDATE consumer_fault SET writes = writes + 1;'
       || ' SELECT RAISE(FAIL, ''the test made this change fail'')'
       || ' FROM consumer_fault WHERE writes = fault; END;'
  FROM main.sqlite_schema AS t CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE')) AS kind
 WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND t.sql NOT LIKE 'CREATE VIRTUAL%'";

impl Faults for Sqlite {
    async fn arm_fault(connection: &mut SqliteConnection, write: u32) -> Result<(), sqlx::Error> {
        raw_sql(COUNTER).execute(&mut *connection).await?;
        sqlx::query("UPDATE temp.consumer_fault SET fault = ?1")
            .bind(write)
            .execute(&mut *connection)
            .await?;
        let triggers: Vec<String> = sqlx::query_scalar(TRIGGERS)
            .fetch_all(&mut *connection)
            .await?;
        for trigger in triggers {
            // Made of the names of tables, quoted.
            raw_sql(AssertSqlSafe(trigger))
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    async fn fault_was_reached(
        connection: &mut SqliteConnection,
        write: u32,
    ) -> Result<bool, sqlx::Error> {
        let writes: u32 = sqlx::query_scalar("SELECT writes FROM temp.consumer_fault")
            .fetch_one(connection)
            .await?;
        Ok(writes >= write)
    }
}
