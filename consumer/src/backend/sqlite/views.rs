//! The view over the active version of a read model, on SQLite.

use sqlx::sqlite::{Sqlite, SqliteConnection};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use crate::backend::read_model::quoted;
use crate::backend::views::{ColumnShape, Name, Relation, Switch, ViewError, Views, select};

const RELATION: &str = "SELECT type, sql FROM {schema}.sqlite_master
     WHERE name = $1 COLLATE NOCASE AND type IN ('table', 'view')";

/// The triggers of a view, which are dropped with it.
const TRIGGERS: &str = "SELECT sql FROM {schema}.sqlite_master
     WHERE type = 'trigger' AND tbl_name = $1 COLLATE NOCASE ORDER BY rowid";

/// A view of one of the library's tables has no types of its own: its columns have those of the table.
const COLUMNS: &str =
    "SELECT name, upper(type) AS sql_type FROM pragma_table_info($1, $2) ORDER BY cid";

impl Views for Sqlite {
    async fn relation(
        connection: &mut SqliteConnection,
        name: &Name,
    ) -> Result<Relation, sqlx::Error> {
        let relation = RELATION.replace("{schema}", &quoted(schema(name)));
        let relation = sqlx::query(AssertSqlSafe(relation)).bind(&name.name);
        let Some(row) = relation.fetch_optional(connection).await? else {
            return Ok(Relation::Missing);
        };
        let (kind, sql): (String, String) = (row.try_get("type")?, row.try_get("sql")?);
        Ok(match kind.as_str() {
            "view" => Relation::View {
                reads: table_of(&sql),
            },
            _ => Relation::Other,
        })
    }

    async fn columns(
        connection: &mut SqliteConnection,
        name: &Name,
    ) -> Result<Vec<ColumnShape>, sqlx::Error> {
        let rows = sqlx::query(COLUMNS)
            .bind(&name.name)
            .bind(schema(name))
            .fetch_all(connection)
            .await?;
        rows.iter().map(ColumnShape::decode::<Self>).collect()
    }

    async fn switch(
        connection: &mut SqliteConnection,
        view: &Name,
        table: &Name,
        switch: &Switch,
    ) -> Result<(), ViewError> {
        let (Switch::Replace(columns) | Switch::Recreate(columns)) = switch;
        // A view has neither grants nor dependents here, so it is always dropped and created.
        let mut script = format!(
            "DROP VIEW IF EXISTS {view};\nCREATE VIEW {view} AS {};\n",
            select(columns, table),
            view = view.quoted()
        );
        let triggers = TRIGGERS.replace("{schema}", &quoted(schema(view)));
        let triggers = sqlx::query(AssertSqlSafe(triggers)).bind(&view.name);
        for row in triggers.fetch_all(&mut *connection).await? {
            script.push_str(row.try_get("sql")?);
            script.push_str(";\n");
        }
        Self::change(connection, view, script).await
    }

    async fn change(
        connection: &mut SqliteConnection,
        _: &Name,
        script: String,
    ) -> Result<(), ViewError> {
        let script = sqlx::raw_sql(AssertSqlSafe(script));
        Ok(connection.execute(script).await.map(drop)?)
    }

    fn grant_reading(_view: &Name, _role: Option<&str>) -> String {
        String::new()
    }
}

fn schema(name: &Name) -> &str {
    name.schema.as_deref().unwrap_or("main")
}

/// The table of a view as [`Views::switch`] creates it: it ends in the table's quoted name.
fn table_of(sql: &str) -> Option<String> {
    let (_, table) = sql.trim_end().rsplit_once(" FROM \"")?;
    let table = table.strip_suffix('"')?;
    let table = table.rsplit_once("\".\"").map_or(table, |(_, table)| table);
    (!table.contains('"')).then(|| table.to_owned())
}

#[cfg(test)]
mod tests {
    use super::table_of;

    #[test]
    fn only_a_view_of_one_table_tells_its_table() {
        let ours = r#"CREATE VIEW "users" AS SELECT "id" FROM "users_v2""#;
        assert_eq!(table_of(ours).as_deref(), Some("users_v2"));
        let qualified = r#"CREATE VIEW "users" AS SELECT "id" FROM "main"."users_v2""#;
        assert_eq!(table_of(qualified).as_deref(), Some("users_v2"));
        for other in [
            r#"CREATE VIEW "users" AS SELECT "id" FROM "users_v2" WHERE "id" > "x""#,
            "CREATE VIEW users AS SELECT 1",
            r#"CREATE VIEW u AS SELECT 1 FROM "a" UNION SELECT 2 FROM "b" LIMIT 1"#,
        ] {
            assert_eq!(table_of(other), None, "{other}");
        }
    }
}
