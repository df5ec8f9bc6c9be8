//! The view over the active version of a read model, through which queries read it.
//!
//! Version *n* of a consumer writes the table `users_v<n>`, and `users` is a view of the active one. The
//! names of both are recorded for each version, so that commands need not know the code.

use std::fmt;
use std::future::Future;

use super::driver::Driver;

/// The name of a table or a view, with its schema where the database has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
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
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.name)),
            None => quoted(&self.name),
        }
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

/// An identifier as SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What has the name of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// Nothing.
    Missing,
    /// A view, and the table that it reads if it reads one.
    View { reads: Option<String> },
    /// A table, or something else.
    Other,
}

/// A column as the catalogue describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnShape {
    pub(crate) name: String,
    pub(crate) sql_type: String,
}

/// How a view is made to show another table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
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
        let known = view.iter().filter(|shown| table.iter().any(|column| column.name == shown.name));
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

/// Why a view could not be switched.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The database returned an error.
    #[error("the view could not be changed")]
    Database(#[from] sqlx::Error),
    /// Other objects depend on columns that would disappear or change.
    #[error(
        "the view `{view}` cannot lose or retype columns while other objects depend on it: {dependents}; drop them, activate the version, and create them again"
    )]
    Dependents {
        /// The view.
        view: String,
        /// What depends on it, in the database's words.
        dependents: String,
    },
    /// The role may not change the view.
    #[error("this role may not change the view `{view}`; run this as its owner, and then the command again:\n{sql}")]
    NotAllowed {
        /// The view.
        view: String,
        /// The statements.
        sql: String,
    },
}

/// What views need of a database. All statements run in the caller's transaction.
pub trait Views: Driver {
    /// The schema in which a table without a schema in its name is created; `None` where there are no
    /// schemas.
    fn current_schema(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// What has the name of the view.
    fn relation(
        connection: &mut Self::Connection,
        name: &Name,
    ) -> impl Future<Output = Result<Relation, sqlx::Error>> + Send;

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

    /// The statements that [`switch`](Self::switch) runs, for someone who may run them.
    fn switch_sql(view: &Name, table: &Name, switch: &Switch) -> String;
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
            ("id email", "email id age", Switch::Replace(names("id email age"))),
            ("id email", "id age", Switch::Recreate(names("id age"))),
            ("id age:integer", "id age:bigint", Switch::Recreate(names("id age"))),
            ("age email id", "id age", Switch::Recreate(names("age id"))),
        ] {
            assert_eq!(Switch::between(&columns(view), &columns(table)), switch, "{view} {table}");
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
