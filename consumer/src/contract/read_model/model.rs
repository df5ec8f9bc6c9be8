//! Rows.

use sqlx::query::Query;
use sqlx::{Executor, IntoArguments};

use super::database::ReadModelDatabase;
use super::error::ColumnError;
use super::key::Key;
use super::table::{Table, VersionTable};
use super::value::Value;

/// A row of a table that the library owns: what a read model consists of.
///
/// The derive macro writes the implementation. By hand it looks like this:
///
/// ```
/// use consumer::read_model::{
///     ColumnError, ColumnNormalizer, ColumnReader, ColumnWriter, ReadModel, Table, TableColumn, Value,
/// };
///
/// struct User {
///     id: String,
///     email: Option<String>,
///     as_of: i64,
/// }
///
/// impl ReadModel for User {
///     type Key = String;
///     const TABLE: &'static Table = &Table::new(
///         "users",
///         &[
///             TableColumn::key::<String>("id"),
///             TableColumn::of::<Option<String>>("email").indexed(),
///             TableColumn::position("as_of"),
///         ],
///     );
///
///     fn key(&self) -> String {
///         self.id.clone()
///     }
///
///     fn to_values(&self, values: &mut Vec<Value>) -> Result<(), ColumnError> {
///         let mut columns = ColumnWriter::new(Self::TABLE, values);
///         columns.field(&self.id)?.field(&self.email)?.field(&self.as_of)?;
///         Ok(())
///     }
///
///     fn from_values(values: Vec<Value>) -> Result<Self, ColumnError> {
///         let mut columns = ColumnReader::new(Self::TABLE, values);
///         Ok(Self { id: columns.field()?, email: columns.field()?, as_of: columns.field()? })
///     }
///
///     fn normalize(&mut self) -> Result<(), ColumnError> {
///         let mut columns = ColumnNormalizer::new(Self::TABLE);
///         columns.field(&mut self.id)?.field(&mut self.email)?.field(&mut self.as_of)?;
///         Ok(())
///     }
///
///     fn set_position(&mut self, position: i64) {
///         self.as_of = position;
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a read model",
    label = "no `ReadModel` here",
    note = "write `#[derive(ReadModel)]` and `#[read_model(table = \"…\")]` on `{Self}`, and mark its key with `#[read_model(key)]`"
)]
pub trait ReadModel: Sized + Send + Sync + 'static {
    /// The key: the field marked `key`, or a tuple of several in their order.
    type Key: Key;

    /// The table.
    const TABLE: &'static Table;

    /// Returns the key.
    fn key(&self) -> Self::Key;

    /// Appends the values of the columns in the order of the table.
    ///
    /// # Errors
    /// If a value cannot be converted.
    fn to_values(&self, values: &mut Vec<Value>) -> Result<(), ColumnError>;

    /// Reads the row from the values of its columns, in the order of the table.
    ///
    /// # Errors
    /// If a column holds another type or value than its field can.
    fn from_values(values: Vec<Value>) -> Result<Self, ColumnError>;

    /// Gives every field its [stored form](super::Field::normalize).
    ///
    /// # Errors
    /// If no database can store a value, which fails the event.
    fn normalize(&mut self) -> Result<(), ColumnError>;

    /// Sets the `position` field, if there is one.
    fn set_position(&mut self, position: i64) {
        let _ = position;
    }

    /// Reads the row with a key from the active version of the read model; `None` if there is none.
    ///
    /// The executor is a connection, a transaction or a pool. Behind a pooler in transaction mode, call it
    /// inside a transaction.
    ///
    /// # Errors
    /// If the database refuses, as for a view over a version with other columns.
    fn find<'e, DB, E>(
        executor: E,
        key: &Self::Key,
    ) -> impl Future<Output = Result<Option<Self>, sqlx::Error>> + Send
    where
        DB: ReadModelDatabase,
        DB::Arguments: IntoArguments<DB>,
        E: Executor<'e, Database = DB> + 'e,
    {
        let query = find_query::<DB, Self>(key);
        async move {
            let row = executor.fetch_optional(query?).await?;
            row.map(|row| {
                let values = DB::values(Self::TABLE, &row)?;
                Self::from_values(values).map_err(|error| sqlx::Error::Decode(error.into()))
            })
            .transpose()
        }
    }
}

fn find_query<DB: ReadModelDatabase, R: ReadModel>(
    key: &R::Key,
) -> Result<Query<'static, DB, DB::Arguments>, sqlx::Error> {
    let mut values = Vec::new();
    key.to_values(&mut values)
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    DB::find(&VersionTable::new(R::TABLE, 1, None), values)
        .map_err(|error| sqlx::Error::Encode(error.to_string().into()))
}
