//! The privileges that a role needs on Postgres, and the statements that grant those it lacks.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _, raw_sql};

use crate::backend::{Access, Column, Schema, StoreError, StoreSettings};

/// The privileges that a role needs on a table or a sequence.
struct Needed<'a> {
    /// The bare name; none for the sequence that the position column draws from.
    name: Option<&'a str>,
    privileges: &'static [&'static str],
    /// The columns to which SELECT may be limited.
    columns: Vec<&'a str>,
    /// Whether it belongs to the log, which can be in another database schema than the library's tables.
    of_the_log: bool,
}

const SELECT: &[&str] = &["SELECT"];
const CHANGE: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// The privileges on the library's tables.
fn own_tables(access: Access) -> &'static [(&'static str, &'static [&'static str])] {
    match access {
        Access::Append => &[],
        Access::Observe => &[
            ("consumer_progress", SELECT),
            ("consumer_worker", SELECT),
            ("consumer_frontier", SELECT),
            ("consumer_parked", SELECT),
            ("consumer_handled", SELECT),
            ("consumer_log", SELECT),
            ("consumer_active", SELECT),
            ("consumer_log_state", SELECT),
            ("consumer_pending", SELECT),
            ("consumer_read_models", SELECT),
            ("consumer_retired", SELECT),
        ],
        Access::Work => &[
            ("consumer_progress", CHANGE),
            ("consumer_worker", CHANGE),
            ("consumer_frontier", &["SELECT", "INSERT", "UPDATE"]),
            ("consumer_parked", &["SELECT", "INSERT", "UPDATE"]),
            ("consumer_handled", CHANGE),
            ("consumer_log", CHANGE),
            ("consumer_active", &["SELECT", "INSERT", "UPDATE"]),
            ("consumer_log_state", &["SELECT", "INSERT", "UPDATE"]),
            ("consumer_pending", CHANGE),
            ("consumer_read_models", &["SELECT", "INSERT", "UPDATE"]),
            ("consumer_retired", CHANGE),
        ],
        Access::Operate => &[
            ("consumer_progress", CHANGE),
            ("consumer_worker", CHANGE),
            ("consumer_frontier", SELECT),
            ("consumer_parked", CHANGE),
            ("consumer_handled", CHANGE),
            ("consumer_log", CHANGE),
            ("consumer_active", CHANGE),
            ("consumer_log_state", SELECT),
            ("consumer_pending", CHANGE),
            ("consumer_read_models", &["SELECT", "UPDATE", "DELETE"]),
            ("consumer_retired", CHANGE),
        ],
    }
}

/// All that a use needs; the first three are enough to look at the log. One that another program appends
/// to has no heads, and its sequence is not drawn from.
fn needed(schema: &Schema, access: Option<Access>) -> Vec<Needed<'_>> {
    let (events, heads, sequence): (&[_], &[_], &[_]) = match access {
        _ if schema.is_read_only() => (SELECT, &[], &[]),
        Some(Access::Append) => (
            &["SELECT", "INSERT"],
            &["SELECT", "INSERT", "UPDATE"],
            &["USAGE"],
        ),
        Some(Access::Work) => (SELECT, SELECT, &["SELECT", "USAGE"]),
        Some(Access::Observe | Access::Operate) => (SELECT, SELECT, SELECT),
        None => (SELECT, SELECT, &[]),
    };
    let own = access.map(own_tables).unwrap_or_default();
    let of_the_log = |name, privileges, columns| Needed {
        name,
        privileges,
        columns,
        of_the_log: true,
    };
    let table = |name, privileges| Needed {
        name: Some(name),
        privileges,
        columns: Vec::new(),
        of_the_log: false,
    };
    let columns = event_columns(schema);
    let mut needed = vec![
        table("consumer_schema", SELECT),
        of_the_log(Some(schema.events_name()), events, columns),
        of_the_log(Some(schema.heads_name()), heads, head_columns(schema)),
        of_the_log(schema.bare_sequence_name(), sequence, Vec::new()),
    ];
    needed.extend(own.iter().map(|(name, privileges)| table(name, privileges)));
    needed
}

/// The columns to which SELECT may be limited; none where expressions can read any.
fn event_columns(schema: &Schema) -> Vec<&str> {
    if schema.has_expressions() {
        return Vec::new();
    }
    let columns = schema.own_columns();
    columns.map(|column| schema.column_name(column)).collect()
}

fn head_columns(schema: &Schema) -> Vec<&str> {
    let shared = [
        Column::AggregateType,
        Column::AggregateId,
        Column::AggregateVersion,
    ];
    let shared = shared.into_iter().map(|column| schema.column_name(column));
    shared.chain(["updated_at"]).collect()
}

/// The schemas in which a name is looked up, including those that the role may not use, in which a name is
/// not found.
const PATH: &str = "
    path (namespace, name, place) AS (
        SELECT n.oid, n.nspname, s.place
          FROM unnest($schemas) WITH ORDINALITY AS s (name, place)
          JOIN pg_namespace AS n ON n.nspname = s.name),
    log_path (namespace, name, place) AS (
        SELECT n.oid, n.nspname, s.place
          FROM unnest($log_schemas) WITH ORDINALITY AS s (name, place)
          JOIN pg_namespace AS n ON n.nspname = s.name)";

const SEARCH_PATH: &str = r#"(
    SELECT array_agg(CASE entry.name WHEN '$user' THEN current_user ELSE entry.name END)
      FROM (SELECT CASE WHEN part LIKE '%"%' THEN btrim(btrim(part), chr(34))
                          ELSE lower(btrim(part)) END AS name
              FROM unnest(string_to_array(current_setting('search_path'), ',')) AS part) AS entry)"#;

/// A statement for each object on which the role lacks something.
const MISSING: &str = "
    WITH $path,
    needed (name, privilege, place, columns, of_the_log) AS (VALUES $needed),
    sequence (oid) AS (
        SELECT d.objid
          FROM pg_class AS t
          JOIN log_path AS path ON path.namespace = t.relnamespace
          JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attname = '{=global_position}'
          JOIN LATERAL (
               SELECT objid FROM pg_depend
                WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
                  AND refobjid = t.oid AND refobjsubid = a.attnum AND deptype IN ('a', 'i')
                UNION ALL
               -- Drawn from by the column's default and not owned by it.
               SELECT u.refobjid FROM pg_attrdef AS v
                 JOIN pg_depend AS u ON u.classid = 'pg_attrdef'::regclass AND u.objid = v.oid
                                    AND u.refclassid = 'pg_class'::regclass
                WHERE v.adrelid = t.oid AND v.adnum = a.attnum) AS d ON true
          JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
         WHERE t.relname = '{log}'
         ORDER BY path.place LIMIT 1),
    found (name, oid) AS (
        (SELECT DISTINCT ON (c.relname) c.relname::text, c.oid
           FROM pg_class AS c
           JOIN (SELECT *, false AS of_the_log FROM path UNION ALL
                 SELECT *, true FROM log_path) AS path ON path.namespace = c.relnamespace
          WHERE (c.relname, path.of_the_log) IN (SELECT name, of_the_log FROM needed)
          ORDER BY c.relname, path.place)
        UNION ALL
        SELECT '', oid FROM sequence),
    lacking (oid, privilege, place) AS (
        SELECT f.oid, n.privilege, n.place
          FROM needed AS n JOIN found AS f ON f.name = n.name JOIN pg_class AS c ON c.oid = f.oid
         -- In this order: a column has no privilege to delete.
         WHERE NOT CASE
               WHEN c.relkind = 'S' THEN has_sequence_privilege(f.oid, n.privilege)
               WHEN has_table_privilege(f.oid, n.privilege) THEN true
               WHEN n.privilege = 'SELECT' AND cardinality(n.columns) > 0
               THEN (SELECT bool_and(has_column_privilege(f.oid, k, 'SELECT')) FROM unnest(n.columns) AS k)
               ELSE false END)
    SELECT 0 AS place, current_user::text AS role,
           format('GRANT USAGE ON SCHEMA %I TO %I', n.nspname, current_user) AS statement
      FROM (SELECT DISTINCT c.relnamespace
              FROM found AS f JOIN needed AS n ON n.name = f.name JOIN pg_class AS c ON c.oid = f.oid) AS used
      JOIN pg_namespace AS n ON n.oid = used.relnamespace
     WHERE NOT has_schema_privilege(n.oid, 'USAGE')
    UNION ALL
    SELECT min(l.place)::int, current_user::text,
           format('GRANT %s ON %s %s TO %I', string_agg(l.privilege, ', ' ORDER BY l.place),
                  CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass, current_user)
      FROM lacking AS l JOIN pg_class AS c ON c.oid = l.oid GROUP BY c.oid, c.relkind
    UNION ALL
    SELECT 999, current_user::text,
           format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), current_user)
     WHERE $temporary AND NOT has_database_privilege(current_database(), 'TEMPORARY')
    UNION ALL
    -- It would hide rows of the library's tables; that of the events is up to the worker.
    SELECT 1000, current_user::text, format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', f.oid::regclass)
      FROM found AS f JOIN pg_class AS c ON c.oid = f.oid
     WHERE c.relkind <> 'S' AND f.name LIKE 'consumer\\_%' AND row_security_active(f.oid)
     ORDER BY place, statement";

/// A statement for each thing that keeps a role from creating or changing the library's tables.
const MISSING_TO_CREATE: &str = "
    WITH $path,
    target (namespace, name) AS (SELECT namespace, name FROM path ORDER BY place LIMIT 1)
    SELECT current_user::text AS role,
           format('CREATE SCHEMA %I AUTHORIZATION %I', s.name, current_user) AS statement
      FROM unnest($schemas) AS s (name)
     WHERE NOT EXISTS (SELECT FROM target) AND NOT has_database_privilege(current_database(), 'CREATE')
    UNION ALL
    SELECT current_user::text, format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', t.name, current_user)
      FROM target AS t WHERE NOT has_schema_privilege(t.namespace, 'CREATE')
                          OR NOT has_schema_privilege(t.namespace, 'USAGE')
    UNION ALL
    -- Only its owner, or a role that has the owner's rights, changes a table.
    SELECT DISTINCT current_user::text,
           format('GRANT %s TO %I', c.relowner::regrole, current_user)
      FROM target AS t JOIN pg_class AS c ON c.relnamespace = t.namespace
     WHERE c.relname IN ($own) AND c.relkind = 'r' AND NOT pg_has_role(c.relowner, 'USAGE')";

/// Refuses a role that lacks privileges, with all statements that it needs.
pub(super) async fn refuse_forbidden(
    connection: &mut PgConnection,
    settings: &StoreSettings,
    access: Option<Access>,
) -> Result<(), StoreError> {
    let to = match access {
        None => "read the log".to_owned(),
        Some(access) => access.to_string(),
    };
    let schema = &settings.schema;
    let needed = rows_of(&needed(schema, access));
    // A worker tests the server with a temporary sequence then.
    let temporary = schema.is_read_only() && access == Some(Access::Work);
    let missing = in_path(schema, MISSING)
        .replace("$needed", &needed)
        .replace("$temporary", &temporary.to_string());
    refuse(connection, missing, to).await
}

/// The functions of the expression `$1` that the role may not execute. Each word of it may be one.
const NOT_EXECUTABLE: &str = "
    SELECT current_user::text AS role,
           format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, current_user) AS statement
      FROM pg_proc AS p
     WHERE p.proname = ANY (regexp_split_to_array($1 || ' ' || lower($1), '\\W+'))
       AND NOT has_function_privilege(p.oid, 'EXECUTE')
     ORDER BY statement";

/// The error of an expression that lacks a privilege, with the statements that grant it.
pub(super) async fn not_executable(
    connection: &mut PgConnection,
    expression: &str,
    error: sqlx::Error,
) -> StoreError {
    let missing = sqlx::query(NOT_EXECUTABLE)
        .persistent(false)
        .bind(expression)
        .fetch_all(connection)
        .await;
    let named = missing.map_err(StoreError::from).and_then(|rows| {
        let to = format!("evaluate the expression `{expression}`");
        refuse_missing(&rows, to)
    });
    match named {
        Ok(()) => error.into(),
        Err(named) => named,
    }
}

/// Refuses a role that cannot create the tables, or change those that exist.
pub(super) async fn refuse_without_create(
    connection: &mut PgConnection,
    settings: &StoreSettings,
) -> Result<(), StoreError> {
    let own = own_tables(Access::Operate).iter().map(|(name, _)| *name);
    let own: Vec<String> = own.chain(["consumer_schema"]).map(literal).collect();
    let missing = in_path(&settings.schema, MISSING_TO_CREATE).replace("$own", &own.join(", "));
    refuse(
        connection,
        missing,
        "create or change the tables".to_owned(),
    )
    .await
}

async fn refuse(
    connection: &mut PgConnection,
    missing: String,
    to: String,
) -> Result<(), StoreError> {
    // One message without parameters, since there may be no transaction around it.
    let rows = raw_sql(AssertSqlSafe(missing))
        .fetch_all(connection)
        .await?;
    refuse_missing(&rows, to)
}

fn refuse_missing(rows: &[PgRow], to: String) -> Result<(), StoreError> {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    let statements: Result<_, _> = rows.iter().map(|row| row.try_get("statement")).collect();
    Err(StoreError::MissingPrivileges {
        role: first.try_get("role")?,
        to,
        statements: statements?,
    })
}

fn in_path(schema: &Schema, template: &str) -> String {
    let schemas = |name: Option<&str>| match name {
        Some(name) => format!("ARRAY[{}]", literal(name)),
        None => SEARCH_PATH.to_owned(),
    };
    // The names of the schema last, since they can have braces.
    let statement = schema.render(&template.replace("$path", PATH));
    statement
        .replace("$schemas", &schemas(schema.database_schema_name()))
        .replace("$log_schemas", &schemas(schema.events_schema_name()))
}

/// Rows for `VALUES`.
fn rows_of(needed: &[Needed<'_>]) -> String {
    let rows = needed.iter().flat_map(|one| {
        let of_the_log = one.of_the_log;
        let columns: Vec<String> = one.columns.iter().copied().map(literal).collect();
        let columns = columns.join(", ");
        let name = literal(one.name.unwrap_or_default());
        one.privileges.iter().map(move |privilege| {
            (
                name.clone(),
                literal(privilege),
                columns.clone(),
                of_the_log,
            )
        })
    });
    let rows: Vec<String> = (1..)
        .zip(rows)
        .map(|(place, (name, privilege, columns, of_the_log))| {
            format!("({name}, {privilege}, {place}, ARRAY[{columns}]::text[], {of_the_log})")
        })
        .collect();
    rows.join(", ")
}

/// A literal of a name, which has been checked to contain no quote.
fn literal(name: &str) -> String {
    format!("'{name}'")
}
