//! The view over the active version of a read model, through which queries read it.
//!
//! Version *n* of a consumer writes the table `users_v<n>`, and `users` is a view of the active one. The
//! names of both are recorded for each version, so that commands need not know the code.

use std::fmt;
use std::future::Future;

use super::StoreSettings;
use super::driver::Driver;
use super::driver_error::DriverError;
use super::operate::ACTIVATE;
use super::read_model::{qualified, quoted};
use super::rows::{Checkpoint, ConsumerId, on_consumer};
use super::sql::statements;
use crate::contract::read_model::VersionTable;

/// The name of a table or a view, with its schema where the database has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
}

impl Name {
    pub(crate) fn new(schema: Option<&str>, name: impl Into<String>) -> Self {
        Self {
            schema: schema.map(str::to_owned),
            name: name.into(),
        }
    }

    /// The name in the same schema.
    pub(crate) fn beside(&self, name: impl Into<String>) -> Self {
        Self::new(self.schema.as_deref(), name)
    }

    /// The name as SQL.
    pub(crate) fn quoted(&self) -> String {
        qualified(self.schema.as_deref(), &self.name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The object that has the name of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// There is none.
    Missing,
    /// A view, and the table that it reads if it reads one.
    View { reads: Option<String> },
    /// A table, or something else.
    Other,
}

/// A column as the catalogue describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnShape {
    pub(crate) name: String,
    pub(crate) sql_type: String,
}

impl ColumnShape {
    /// Decodes a row of the queries behind [`Views::columns`].
    pub(super) fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: DB::read(row, "name")?,
            sql_type: DB::read(row, "sql_type")?,
        })
    }
}

/// The statements that let a view show another table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switch {
    /// The columns of the view stay, and others may follow: the view is replaced in place.
    Replace(Vec<String>),
    /// Columns disappear or change their type: the view is dropped and created again.
    Recreate(Vec<String>),
}

impl Switch {
    /// Compares the columns of the view with those of the table that it is to show.
    pub(crate) fn between(view: &[ColumnShape], table: &[ColumnShape]) -> Self {
        let stays = view.iter().all(|column| table.contains(column));
        let in_view = |column: &&ColumnShape| view.iter().any(|shown| shown.name == column.name);
        let name = |column: &ColumnShape| column.name.clone();
        // Columns that readers know keep their places.
        let known = view
            .iter()
            .filter(|shown| table.iter().any(|column| column.name == shown.name));
        let added = table.iter().filter(|column| !in_view(column));
        let columns = known.chain(added).map(name).collect();
        if stays {
            Self::Replace(columns)
        } else {
            Self::Recreate(columns)
        }
    }
}

/// `SELECT "id", "email" FROM "public"."users_v2"`
pub(crate) fn select(columns: &[String], table: &Name) -> String {
    let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    format!("SELECT {} FROM {}", columns.join(", "), table.quoted())
}

/// The statement that creates the view over a version, possibly on a condition.
pub(super) fn create_view(table: &VersionTable<'_>, condition: &str) -> String {
    let columns = table.table().columns.iter();
    let columns: Vec<String> = columns.map(|column| column.name.to_owned()).collect();
    let view = Name::new(table.schema(), table.view_name());
    let select = select(&columns, &view.beside(table.name()));
    format!("CREATE VIEW {condition}{} AS {select};\n", view.quoted())
}

const RECORD: &str = "
    INSERT INTO {read models} (consumer, version, schema_name, view_name, table_name)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (consumer, version) DO UPDATE
    SET schema_name = excluded.schema_name, view_name = excluded.view_name,
        table_name = excluded.table_name
    -- A worker that starts again writes nothing.
    WHERE {read models}.schema_name <> excluded.schema_name
       OR {read models}.view_name <> excluded.view_name
       OR {read models}.table_name <> excluded.table_name";

const RECORDED: &str = "
    SELECT consumer, version, schema_name, view_name, table_name FROM {read models}
     WHERE consumer = $1 ORDER BY version";

const OWNER: &str = "
    SELECT consumer FROM {read models}
     WHERE consumer <> $1 AND schema_name = $2 AND view_name = $3 LIMIT 1";

const UNRECORD: &str = "DELETE FROM {read models} WHERE consumer = $1 AND version = $2";

/// The oldest version is active unless one was activated.
const ACTIVE_OF: &str = "
    SELECT coalesce((SELECT a.version FROM {active} AS a WHERE a.consumer = $1),
                    (SELECT min(p.version) FROM {progress} AS p WHERE p.consumer = $1),
                    $2) AS version";

/// The checkpoint rows of the active version of the consumer that maintains a view.
const PROGRESS_OF: &str = "
    SELECT p.consumer, p.version, p.slice_from, {checkpoint}, p.hold_at
      FROM {read models} AS m
      JOIN {progress} AS p ON p.consumer = m.consumer AND p.version = m.version
     WHERE m.schema_name = $1 AND m.view_name = $2
       AND m.version = coalesce(
           (SELECT a.version FROM {active} AS a WHERE a.consumer = m.consumer),
           (SELECT min(o.version) FROM {progress} AS o WHERE o.consumer = m.consumer))
     ORDER BY p.slice_from";

statements! {
    /// The statements about the tables of read models.
    pub ViewStatements {
        record: RECORD,
        recorded: RECORDED,
        owner: OWNER,
        unrecord: UNRECORD,
        active_of: ACTIVE_OF,
        activate: ACTIVATE,
        progress_of: PROGRESS_OF,
    }
}

/// The table and the view of one version of a consumer, as they are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadModelTable {
    pub(crate) consumer: ConsumerId,
    pub(crate) view: Name,
    pub(crate) table: Name,
}

impl ReadModelTable {
    /// The table of one version of a consumer.
    pub(crate) fn new(consumer: &ConsumerId, table: &VersionTable<'_>) -> Self {
        let view = Name::new(table.schema(), table.view_name());
        Self {
            consumer: consumer.clone(),
            table: view.beside(table.name()),
            view,
        }
    }

    fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let schema: String = DB::read(row, "schema_name")?;
        let view: String = DB::read(row, "view_name")?;
        let table: String = DB::read(row, "table_name")?;
        let view = Name::new((!schema.is_empty()).then_some(&*schema), view);
        Ok(Self {
            consumer: ConsumerId::decode::<DB>(row)?,
            table: view.beside(table),
            view,
        })
    }
}

/// Why a view could not be created or switched.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The database returned an error.
    #[error("the view could not be changed")]
    Database(#[source] DriverError),
    /// Other objects depend on columns that would disappear or change.
    #[error(
        "the view `{view}` cannot lose or retype columns while other objects depend on it: {dependents}; drop them, activate the version, and create them again"
    )]
    Dependents {
        /// The view.
        view: String,
        /// The objects that depend on it, in the database's words.
        dependents: String,
    },
    /// A transaction uses the view or the table, so that it cannot be changed.
    #[error(
        "a transaction is reading `{relation}`: end it, or wait for its end, and run the command again; in `pg_stat_activity`, such sessions are often `idle in transaction`"
    )]
    InUse {
        /// The view or the table.
        relation: String,
    },
    /// Another relation has the name of the view.
    #[error(
        "`{view}` exists already, and the read model of `{consumer}` needs the name for its view: {}, or choose another name with `#[read_model(table = \"…\")]`",
        choices(.table.as_deref())
    )]
    Taken {
        /// The view.
        view: String,
        /// The table of the version, whose name an existing table can be given; none if a view has the name.
        table: Option<String>,
        /// The consumer.
        consumer: ConsumerId,
    },
    /// Another consumer maintains a table of that name.
    #[error(
        "the read model `{view}` of `{consumer}` belongs to the consumer `{owner}` already; choose another name with `#[read_model(table = \"…\")]`"
    )]
    Owned {
        /// The view.
        view: String,
        /// The consumer.
        consumer: ConsumerId,
        /// The other one.
        owner: String,
    },
    /// The view does not exist, and the worker's role may not create it.
    #[error(
        "the view `{view}` does not exist, and the worker's role may not create it; run this as a role that may create it, and start the worker again:\n{sql}"
    )]
    MayNotCreate {
        /// The view.
        view: String,
        /// The statements that create it, and let the worker's role read it.
        sql: String,
    },
    /// The role may not change the view.
    #[error(
        "this role may not change `{view}`; run this as its owner, and then the command again:\n{sql}"
    )]
    NotAllowed {
        /// The view.
        view: String,
        /// The statements.
        sql: String,
    },
}

/// The action that is possible on an object with the name of a view.
fn choices(table: Option<&str>) -> String {
    match table {
        Some(table) => format!("rename that table, adopt it by renaming it to `{table}`"),
        None => "rename or drop that view".to_owned(),
    }
}

impl From<sqlx::Error> for ViewError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The statements on views. All statements run in the caller's transaction.
pub trait Views: Driver {
    /// Finds the object that has the name of the view.
    fn relation(
        connection: &mut Self::Connection,
        name: &Name,
    ) -> impl Future<Output = Result<Relation, sqlx::Error>> + Send;

    /// Renders the statements.
    fn view_statements(settings: &StoreSettings) -> ViewStatements {
        ViewStatements::new(settings)
    }

    /// Runs statements that change a view or a table, whose owner may be another role.
    fn change(
        connection: &mut Self::Connection,
        relation: &Name,
        script: String,
    ) -> impl Future<Output = Result<(), ViewError>> + Send;

    /// The columns of a table or view, in order.
    fn columns(
        connection: &mut Self::Connection,
        name: &Name,
    ) -> impl Future<Output = Result<Vec<ColumnShape>, sqlx::Error>> + Send;

    /// Makes the view show a table with these columns.
    fn switch(
        connection: &mut Self::Connection,
        view: &Name,
        table: &Name,
        switch: &Switch,
    ) -> impl Future<Output = Result<(), ViewError>> + Send;

    /// The statement with which a role may read a view.
    fn grant_reading(view: &Name, role: Option<&str>) -> String;
}

/// Records the table of a version at the start of a worker, and creates its view if the version is the
/// active one. Runs in a transaction in which no other process creates read models.
pub(crate) async fn prepare_view<DB: Views>(
    sql: &ViewStatements,
    connection: &mut DB::Connection,
    of: &ReadModelTable,
    role: Option<&str>,
) -> Result<(), ViewError> {
    let schema = of.view.schema.as_deref().unwrap_or_default();
    let owner = sql.owner.on::<DB>().bind(&*of.consumer.name).bind(schema);
    if let Some(owner) = owner
        .bind(&*of.view.name)
        .fetch_optional(connection)
        .await?
    {
        return Err(ViewError::Owned {
            view: of.view.to_string(),
            consumer: of.consumer.clone(),
            owner: DB::read(&owner, "consumer")?,
        });
    }
    let record = on_consumer::<DB>(&sql.record, &of.consumer).bind(schema);
    let record = record.bind(&*of.view.name).bind(&*of.table.name);
    record.execute(connection).await?;
    let versions = recorded_tables::<DB>(sql, connection, &of.consumer.name).await?;
    let active = on_consumer::<DB>(&sql.active_of, &of.consumer);
    let active: i32 = active.fetch_value(connection, "version").await?;
    let is = |version: &ReadModelTable, number: i32| {
        i32::try_from(version.consumer.version) == Ok(number)
    };
    let relation = DB::relation(connection, &of.view).await?;
    match &relation {
        Relation::Missing => {
            // Without one, the active version was written by hand, and has no view.
            if let Some(active) = versions.iter().find(|version| is(version, active)) {
                let shown = show::<DB>(connection, &of.view, &active.table).await;
                shown.map_err(|error| refused_creation::<DB>(error, &of.view, role))?;
                activate::<DB>(sql, connection, &active.consumer).await?;
            }
        }
        Relation::View { reads: Some(table) } => {
            let Some(shown) = versions.iter().find(|version| version.table.name == *table) else {
                return Err(taken(of, &relation));
            };
            // The database's owner may have switched it.
            if !is(shown, active) {
                activate::<DB>(sql, connection, &shown.consumer).await?;
            }
        }
        Relation::View { reads: None } | Relation::Other => return Err(taken(of, &relation)),
    }
    Ok(())
}

/// What it means at the start of a worker that it may not create a view.
fn refused_creation<DB: Views>(error: ViewError, view: &Name, role: Option<&str>) -> ViewError {
    match error {
        ViewError::NotAllowed { view: name, sql } => ViewError::MayNotCreate {
            view: name,
            sql: sql + &DB::grant_reading(view, role),
        },
        error => error,
    }
}

fn taken(of: &ReadModelTable, by: &Relation) -> ViewError {
    let is_table = matches!(by, Relation::Other);
    ViewError::Taken {
        view: of.view.to_string(),
        table: is_table.then(|| of.table.name.clone()),
        consumer: of.consumer.clone(),
    }
}

async fn activate<DB: Views>(
    sql: &ViewStatements,
    connection: &mut DB::Connection,
    of: &ConsumerId,
) -> Result<(), sqlx::Error> {
    let activate = on_consumer::<DB>(&sql.activate, of);
    activate.execute(connection).await.map(drop)
}

/// The recorded tables of all versions of a consumer, oldest first.
pub(crate) async fn recorded_tables<DB: Views>(
    sql: &ViewStatements,
    connection: &mut DB::Connection,
    consumer: &str,
) -> Result<Vec<ReadModelTable>, sqlx::Error> {
    let recorded = sql.recorded.on::<DB>().bind(consumer);
    let rows = recorded.fetch_all(connection).await?;
    rows.iter().map(ReadModelTable::decode::<DB>).collect()
}

/// The checkpoint rows of the active version of the consumer that maintains a view; none if no worker
/// has run one.
pub(crate) async fn progress_of<DB: Views>(
    sql: &ViewStatements,
    connection: &mut DB::Connection,
    view: &Name,
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let schema = view.schema.as_deref().unwrap_or_default();
    let progress = sql.progress_of.on::<DB>().bind(schema).bind(&*view.name);
    let rows = progress.fetch_all(connection).await?;
    rows.iter().map(Checkpoint::decode::<DB>).collect()
}

/// Makes the view show the table of a version, unless it does so already; nothing for a version without a
/// table of the library.
pub(crate) async fn switch_view<DB: Views>(
    sql: &ViewStatements,
    connection: &mut DB::Connection,
    to: &ConsumerId,
) -> Result<(), ViewError> {
    let versions = recorded_tables::<DB>(sql, connection, &to.name).await?;
    let Some(to) = versions.iter().find(|version| version.consumer == *to) else {
        return Ok(());
    };
    let relation = DB::relation(connection, &to.view).await?;
    match &relation {
        Relation::View { reads: Some(table) } if *table == to.table.name => Ok(()),
        Relation::View { reads: Some(table) }
            if versions.iter().any(|version| version.table.name == *table) =>
        {
            show::<DB>(connection, &to.view, &to.table).await
        }
        Relation::Missing => show::<DB>(connection, &to.view, &to.table).await,
        Relation::View { .. } | Relation::Other => Err(taken(to, &relation)),
    }
}

/// Drops the table of a version, and the view with the last of them.
pub(crate) async fn drop_table<DB: Views>(
    sql: &ViewStatements,
    connection: &mut DB::Connection,
    of: &ConsumerId,
) -> Result<(), ViewError> {
    let versions = recorded_tables::<DB>(sql, connection, &of.name).await?;
    let Some(dropped) = versions.iter().find(|version| version.consumer == *of) else {
        return Ok(());
    };
    let mut script = format!("DROP TABLE IF EXISTS {};\n", dropped.table.quoted());
    if let Relation::View { reads: Some(table) } = DB::relation(connection, &dropped.view).await?
        && table == dropped.table.name
    {
        script = format!("DROP VIEW {};\n{script}", dropped.view.quoted());
    }
    // A transaction that reads the view reads the table, too.
    DB::change(connection, &dropped.table, script).await?;
    let unrecord = on_consumer::<DB>(&sql.unrecord, of);
    unrecord.execute(connection).await?;
    Ok(())
}

/// Makes the view show a table, whatever it shows now.
pub(crate) async fn show<DB: Views>(
    connection: &mut DB::Connection,
    view: &Name,
    table: &Name,
) -> Result<(), ViewError> {
    let shown = DB::columns(connection, view).await?;
    let columns = DB::columns(connection, table).await?;
    let switch = Switch::between(&shown, &columns);
    DB::switch(connection, view, table, &switch).await
}

#[cfg(test)]
mod tests {
    use super::{ColumnShape, Name, Switch, select};

    fn columns(text: &str) -> Vec<ColumnShape> {
        let columns = text.split_whitespace().map(|column| {
            let (name, sql_type) = column.split_once(':').unwrap_or((column, "text"));
            ColumnShape {
                name: name.to_owned(),
                sql_type: sql_type.to_owned(),
            }
        });
        columns.collect()
    }

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn columns_that_readers_know_keep_their_places() {
        for (view, table, switch) in [
            ("", "id email", Switch::Replace(names("id email"))),
            (
                "id email",
                "email id age",
                Switch::Replace(names("id email age")),
            ),
            ("id email", "id age", Switch::Recreate(names("id age"))),
            (
                "id age:integer",
                "id age:bigint",
                Switch::Recreate(names("id age")),
            ),
            ("age email id", "id age", Switch::Recreate(names("age id"))),
        ] {
            assert_eq!(
                Switch::between(&columns(view), &columns(table)),
                switch,
                "{view} {table}"
            );
        }
    }

    #[test]
    fn names_are_quoted() {
        let table = Name::new(Some("re\"ports"), "users_v1");
        assert_eq!(
            select(&names("id order"), &table),
            r#"SELECT "id", "order" FROM "re""ports"."users_v1""#
        );
    }
}
