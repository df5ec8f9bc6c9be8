//! Which version the view of a read model shows, and which one has the columns of a struct.

use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use super::tables::{Comparison, Tables, compare_with_struct};
use super::views::{Name, Relation, Views};
use crate::contract::read_model::{FindError, Table, VersionTable};

/// The view of a read model, in a schema unless the name of the table gives one, or as the session finds
/// it; `None` if there is none.
pub(crate) async fn view_of<DB: Tables>(
    connection: &mut DB::Connection,
    table: &Table,
    schema: Option<&str>,
) -> Result<Option<Name>, sqlx::Error> {
    let schema = match table.schema().or(schema) {
        Some(schema) => Some(schema.to_owned()),
        None => DB::schema_of(connection, table.bare_name()).await?,
    };
    Ok(schema.map(|schema| Name::new(Some(&schema), table.bare_name())))
}

/// The error for a view that shows a version without the columns of the struct; `None` if it has them.
///
/// It explains an error, so errors of its own do not matter.
pub(super) async fn other_version<DB: Tables + Views>(
    connection: &mut DB::Connection,
    table: &'static Table,
    schema: Option<&str>,
) -> Option<FindError> {
    let view = view_of::<DB>(connection, table, schema).await.ok()??;
    let Relation::View { reads: Some(reads) } = DB::relation(connection, &view).await.ok()? else {
        return None;
    };
    let shown = version_of(&view, &reads)?;
    let compared = compare::<DB>(connection, table, &view, shown).await?;
    if compared.has_columns {
        return None;
    }
    Some(FindError::OtherVersion {
        shown,
        wanted: with_columns_of::<DB>(connection, table, &view).await,
        differences: compared.differences,
        view: view.name,
    })
}

/// The latest version whose table has the columns of the struct.
async fn with_columns_of<DB: Tables>(
    connection: &mut DB::Connection,
    table: &'static Table,
    view: &Name,
) -> Option<u32> {
    let query = DB::tables_like(view.schema.as_deref()?, &format!("{}_v", view.name));
    let rows = DB::fetch_script(connection, AssertSqlSafe(query).into_sql_str()).await;
    let mut versions: Vec<u32> = rows
        .ok()?
        .iter()
        .filter_map(|row| {
            let name: String = DB::read(row, "name").ok()?;
            version_of(view, &name)
        })
        .collect();
    versions.sort_unstable();
    while let Some(version) = versions.pop() {
        let compared = compare::<DB>(connection, table, view, version).await;
        if compared.is_some_and(|compared| compared.differences.is_empty()) {
            return Some(version);
        }
    }
    None
}

async fn compare<DB: Tables>(
    connection: &mut DB::Connection,
    table: &'static Table,
    view: &Name,
    version: u32,
) -> Option<Comparison> {
    let table = VersionTable::new(table, version, view.schema.as_deref());
    compare_with_struct::<DB>(connection, &table).await.ok()?
}

/// The version of the table of a view.
fn version_of(view: &Name, table: &str) -> Option<u32> {
    table
        .strip_prefix(&*view.name)?
        .strip_prefix("_v")?
        .parse()
        .ok()
}
