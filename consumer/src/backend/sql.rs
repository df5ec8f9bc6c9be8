//! Statements: templates with the names of the mapping and the words of the dialect filled in.

use std::sync::Arc;

use sqlx::database::HasStatementCache;
use sqlx::query::{Query, QueryScalar};
use sqlx::{AssertSqlSafe, Database, FromRow, SqlSafeStr as _};

use super::Schema;
use super::column_sql::column_word;
use super::dialect::{Dialect, fill_in};
use super::driver::{Binds, Driver, Reads};

/// The settings that the SQL of a store depends on.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub(crate) schema: Schema,
    pub(crate) dialect: Dialect,
    /// Whether appends notify.
    pub(crate) notify: bool,
    /// Whether statements are prepared under a name, to be run again.
    pub(crate) keep_statements: bool,
}

impl StoreSettings {
    /// Fills common parts into a template, then the dialect's words, and then the names and columns of
    /// the mapping.
    pub(crate) fn render(&self, template: &str) -> String {
        let template = fill_in(template, common);
        // Together, since expressions of the mapping can have braces.
        fill_in(&self.dialect.render(&template), |key| {
            let word = column_word(&self.schema, &self.dialect, key);
            Some(word.unwrap_or_else(|| self.schema.lookup(key)))
        })
    }
}

/// The columns of a checkpoint row, besides its key and `hold_at`.
const CHECKPOINT: &str =
    "slice_to, position, epoch, scope, state, began, attempts, failed_position, error,
               failed_releases, unknown_position, unknown_aggregate, unknown_type, unknown_version";

/// Whether this library can work with the tables.
const TABLES_FIT: &str = "NOT EXISTS (SELECT 1 FROM {versions} WHERE needs > {known})";

/// The parts that several statements have in common.
fn common(key: &str) -> Option<String> {
    let part = match key {
        "checkpoint" => CHECKPOINT,
        "tables fit" => TABLES_FIT,
        _ => return None,
    };
    Some(part.to_owned())
}

/// One statement; cheap to clone and to run again.
#[derive(Clone)]
pub(crate) struct Sql {
    text: Arc<str>,
    keep: bool,
}

impl Sql {
    pub(crate) fn new(settings: &StoreSettings, template: &str) -> Self {
        Self {
            text: settings.render(template).into(),
            keep: settings.keep_statements,
        }
    }

    /// Starts the statement, for one database.
    pub(crate) fn query<DB: Database + HasStatementCache>(
        &self,
    ) -> Query<'static, DB, DB::Arguments> {
        sqlx::query(self.safe()).persistent(self.keep)
    }

    /// Starts the statement, of whose result only the first column matters.
    pub(crate) fn scalar<DB: Database + HasStatementCache, T>(
        &self,
    ) -> QueryScalar<'static, DB, T, DB::Arguments>
    where
        (T,): for<'r> FromRow<'r, DB::Row>,
    {
        sqlx::query_scalar(self.safe()).persistent(self.keep)
    }

    /// Starts the statement, for any database.
    pub(crate) fn on<DB: Driver>(&self) -> Statement<DB> {
        Statement(self.query())
    }

    /// Runs the statement, which has no parameters, as one message: a pooler in transaction mode
    /// cannot change the connection in between.
    pub(crate) async fn fetch_as_script<DB: Driver>(
        &self,
        connection: &mut DB::Connection,
    ) -> Result<Vec<DB::Row>, sqlx::Error> {
        DB::fetch_script(connection, self.safe().into_sql_str()).await
    }

    /// The text. Templates are constants, and the names in a [`Schema`] have been checked.
    pub(crate) fn safe(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.text))
    }
}

impl AsRef<str> for Sql {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// A statement that is being given its parameters, on any database.
#[must_use = "run it"]
pub(crate) struct Statement<DB: Database>(Query<'static, DB, DB::Arguments>);

impl<DB: Driver> Statement<DB> {
    /// Adds a parameter.
    pub(crate) fn bind<'q, T>(self, value: T) -> Self
    where
        DB: Binds<'q, T>,
    {
        Self(DB::bind(self.0, value))
    }

    /// Adds the text of an error as a parameter, for `{message $}`.
    pub(crate) fn bind_message(self, text: Option<&str>) -> Self {
        Self(DB::bind_message(self.0, text.map(without_nul)))
    }

    /// Runs it and counts the rows that it changed.
    pub(crate) async fn execute(self, connection: &mut DB::Connection) -> Result<u64, sqlx::Error> {
        let result = DB::execute_query(connection, self.0).await?;
        Ok(DB::rows_affected(&result))
    }

    /// Runs it and returns its rows.
    pub(crate) async fn fetch_all(
        self,
        connection: &mut DB::Connection,
    ) -> Result<Vec<DB::Row>, sqlx::Error> {
        DB::fetch_rows(connection, self.0).await
    }

    /// Runs it and decodes each row as it arrives.
    pub(crate) async fn fetch_decoded<T: Send + Unpin>(
        self,
        connection: &mut DB::Connection,
        decode: impl FnMut(DB::Row) -> Result<T, sqlx::Error> + Send,
    ) -> Result<Vec<T>, sqlx::Error> {
        DB::fetch_decoded(connection, self.0, decode).await
    }

    /// Runs it and returns its first row, if there is one.
    pub(crate) async fn fetch_optional(
        self,
        connection: &mut DB::Connection,
    ) -> Result<Option<DB::Row>, sqlx::Error> {
        DB::fetch_row(connection, self.0).await
    }

    /// Runs it and decodes one column of its only row.
    pub(crate) async fn fetch_value<T>(
        self,
        connection: &mut DB::Connection,
        column: &str,
    ) -> Result<T, sqlx::Error>
    where
        DB: Reads<T>,
    {
        let row = self.fetch_optional(connection).await?;
        DB::read(&row.ok_or(sqlx::Error::RowNotFound)?, column)
    }
}

/// A text that every tool can show and Postgres can store.
pub(super) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Makes a struct of statements, each rendered once from its template. With a bound, templates may
/// be constants of that trait.
#[cfg(feature = "worker")]
macro_rules! statements {
    (
        $(#[$attribute:meta])*
        $vis:vis $name:ident $(for $db:ident: $bound:path)? { $($field:ident: $template:expr),+ $(,)? }
    ) => {
        $(#[$attribute])*
        $vis struct $name { $(pub(super) $field: crate::backend::Sql),+ }

        impl $name {
            pub(super) fn new$(<$db: $bound>)?(settings: &crate::backend::StoreSettings) -> Self {
                Self { $($field: crate::backend::Sql::new(settings, $template)),+ }
            }
        }
    };
}
#[cfg(feature = "worker")]
pub(crate) use statements;
