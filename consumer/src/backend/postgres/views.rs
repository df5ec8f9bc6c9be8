//! The view over the active version of a read model, on Postgres.

use sqlx::postgres::{PgConnection, PgDatabaseError, Postgres};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::tables::grant_on_view;
use crate::backend::views::{ColumnShape, Name, Relation, Switch, ViewError, Views, select};

const RELATION: &str = "
    SELECT c.relkind = 'v' AS is_view,
           -- NULL unless the view reads exactly one table.
           (SELECT CASE count(DISTINCT t.oid) WHEN 1 THEN min(t.relname::text) END
              FROM pg_catalog.pg_rewrite AS r
              JOIN pg_catalog.pg_depend AS d
                ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
               AND d.refclassid = 'pg_catalog.pg_class'::regclass
              JOIN pg_catalog.pg_class AS t ON t.oid = d.refobjid AND t.oid <> c.oid
             WHERE r.ev_class = c.oid AND t.relnamespace = c.relnamespace) AS reads
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2";

const COLUMNS: &str = "
    SELECT a.attname::text AS name,
           pg_catalog.format_type(a.atttypid, a.atttypmod) AS sql_type
      FROM pg_catalog.pg_attribute AS a
      JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum";

/// The options of a view, such as `security_invoker`, which `CREATE OR REPLACE` resets.
const OPTIONS: &str = "
    SELECT ' WITH (' || pg_catalog.array_to_string(c.reloptions, ', ') || ')' AS options
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2";

/// The statements that give a new view what the old one has, as far as its columns remain.
const PROPERTIES: &str = "
    WITH view AS (
        SELECT c.oid, c.relowner, c.relnamespace, c.relacl,
               pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, me.oid AS creator
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_roles AS me ON me.rolname = current_user
         WHERE n.nspname = $1 AND c.relname = $2),
    kept AS (
        SELECT a.* FROM pg_catalog.pg_attribute AS a JOIN view ON view.oid = a.attrelid
         WHERE a.attnum > 0 AND a.attname = ANY ($3)),
    -- What the default privileges of its creator give to others.
    defaults AS (
        SELECT DISTINCT g.grantee FROM view
          JOIN pg_catalog.pg_default_acl AS d
            ON d.defaclrole = creator AND d.defaclobjtype = 'r'
           AND d.defaclnamespace IN (0, relnamespace),
               pg_catalog.aclexplode(d.defaclacl) AS g
         WHERE g.grantee NOT IN (creator, relowner))
    SELECT statement FROM (
        -- First, so that what its creator was granted is not taken for the owner's own right.
        SELECT 1 AS step, pg_catalog.format('ALTER VIEW %s OWNER TO %I', name,
                   pg_catalog.pg_get_userbyid(relowner)) AS statement
          FROM view WHERE relowner <> creator
        UNION ALL
        SELECT 2, pg_catalog.format('REVOKE ALL ON %s FROM %s', name,
                   CASE grantee WHEN 0 THEN 'PUBLIC'
                        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END)
          FROM view, defaults
        UNION ALL
        SELECT 3, pg_catalog.format('COMMENT ON VIEW %s IS %L', name,
                   pg_catalog.obj_description(oid, 'pg_class'))
          FROM view WHERE pg_catalog.obj_description(oid, 'pg_class') IS NOT NULL
        UNION ALL
        SELECT 4, pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', name, attname,
                   pg_catalog.col_description(attrelid, attnum))
          FROM view, kept WHERE pg_catalog.col_description(attrelid, attnum) IS NOT NULL
        UNION ALL
        SELECT 5, pg_catalog.format('GRANT %s ON %s TO %s%s', g.privilege_type, name,
                   CASE g.grantee WHEN 0 THEN 'PUBLIC'
                        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END,
                   CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
          FROM view, pg_catalog.aclexplode(relacl) AS g WHERE g.grantee <> relowner
        UNION ALL
        SELECT 6, pg_catalog.format('GRANT %s (%I) ON %s TO %s%s', g.privilege_type, attname, name,
                   CASE g.grantee WHEN 0 THEN 'PUBLIC'
                        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END,
                   CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
          FROM view, kept, pg_catalog.aclexplode(attacl) AS g
        ) AS s ORDER BY step, statement";

/// The parts of a view that its statement does not contain, and that would be lost with it.
const ADDITIONS: &str = "
    WITH view AS (
        SELECT c.oid FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2)
    SELECT pg_catalog.string_agg(addition, ', ' ORDER BY addition) AS additions FROM (
        SELECT 'trigger ' || t.tgname FROM pg_catalog.pg_trigger AS t JOIN view ON view.oid = t.tgrelid
        UNION ALL
        SELECT 'rule ' || r.rulename FROM pg_catalog.pg_rewrite AS r JOIN view ON view.oid = r.ev_class
         WHERE r.rulename <> '_RETURN'
        UNION ALL
        SELECT 'default of column ' || a.attname FROM pg_catalog.pg_attrdef AS d
          JOIN view ON view.oid = d.adrelid
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        ) AS s (addition)";

impl Views for Postgres {
    async fn relation(connection: &mut PgConnection, name: &Name) -> Result<Relation, sqlx::Error> {
        let relation = about(RELATION, name).fetch_optional(connection).await?;
        let Some(row) = relation else {
            return Ok(Relation::Missing);
        };
        Ok(if row.try_get("is_view")? {
            Relation::View {
                reads: row.try_get("reads")?,
            }
        } else {
            Relation::Other
        })
    }

    async fn columns(
        connection: &mut PgConnection,
        name: &Name,
    ) -> Result<Vec<ColumnShape>, sqlx::Error> {
        let rows = about(COLUMNS, name).fetch_all(connection).await?;
        rows.iter().map(ColumnShape::decode::<Self>).collect()
    }

    async fn switch(
        connection: &mut PgConnection,
        view: &Name,
        table: &Name,
        switch: &Switch,
    ) -> Result<(), ViewError> {
        let options = about(OPTIONS, view)
            .fetch_optional(&mut *connection)
            .await?;
        let options: Option<String> = match options {
            Some(row) => row.try_get("options")?,
            None => None,
        };
        let mut script = statements(view, table, switch, options.as_deref().unwrap_or_default());
        if let Switch::Recreate(columns) = switch {
            refuse_additions(connection, view).await?;
            let properties = about(PROPERTIES, view).bind(columns);
            for row in properties.fetch_all(&mut *connection).await? {
                script.push_str(row.try_get("statement")?);
                script.push_str(";\n");
            }
        }
        Self::change(connection, view, script).await
    }

    /// A reader that holds the view, and everyone behind it, waits for at most a second; the caller
    /// tries again.
    async fn change(
        connection: &mut PgConnection,
        relation: &Name,
        script: String,
    ) -> Result<(), ViewError> {
        connection.execute("SET LOCAL lock_timeout = '1s'").await?;
        let run = connection
            .execute(sqlx::raw_sql(AssertSqlSafe(script.clone())))
            .await;
        run.map_err(|error| refused(error, relation, script))?;
        connection
            .execute("SET LOCAL lock_timeout TO DEFAULT")
            .await?;
        Ok(())
    }

    fn grant_reading(view: &Name, role: Option<&str>) -> String {
        grant_on_view(view, role)
    }
}

/// Refuses to drop a view with what could not be given to the new one.
async fn refuse_additions(connection: &mut PgConnection, view: &Name) -> Result<(), ViewError> {
    let additions = about(ADDITIONS, view).fetch_one(connection).await?;
    match additions.try_get("additions")? {
        Some(dependents) => Err(ViewError::Dependents {
            view: view.to_string(),
            dependents,
        }),
        None => Ok(()),
    }
}

/// Starts a query about the relation of a name. Rare, so it is not kept prepared.
fn about<'q>(
    sql: &'static str,
    name: &'q Name,
) -> sqlx::query::Query<'q, Postgres, sqlx::postgres::PgArguments> {
    let schema = name.schema.as_deref().unwrap_or("public");
    sqlx::query(sql)
        .bind(schema)
        .bind(&name.name)
        .persistent(false)
}

fn statements(view: &Name, table: &Name, switch: &Switch, options: &str) -> String {
    let view = view.quoted();
    match switch {
        Switch::Replace(columns) => {
            let select = select(columns, table);
            format!("CREATE OR REPLACE VIEW {view}{options} AS {select};\n")
        }
        Switch::Recreate(columns) => {
            let select = select(columns, table);
            format!("DROP VIEW {view};\nCREATE VIEW {view}{options} AS {select};\n")
        }
    }
}

fn refused(error: sqlx::Error, relation: &Name, sql: String) -> ViewError {
    let database = error.as_database_error().map(|error| {
        let detail = error
            .try_downcast_ref::<PgDatabaseError>()
            .and_then(PgDatabaseError::detail);
        (error.code(), detail.unwrap_or_default().replace('\n', ", "))
    });
    match database {
        // dependent_objects_still_exist
        Some((Some(code), dependents)) if code == "2BP01" => ViewError::Dependents {
            view: relation.to_string(),
            dependents,
        },
        // lock_not_available, deadlock_detected
        Some((Some(code), _)) if matches!(&*code, "55P03" | "40P01") => ViewError::InUse {
            relation: relation.to_string(),
        },
        // insufficient_privilege
        Some((Some(code), _)) if code == "42501" => ViewError::NotAllowed {
            view: relation.to_string(),
            sql,
        },
        _ => error.into(),
    }
}
