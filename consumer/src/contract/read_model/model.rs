//! Rows.

use sqlx::Acquire;

use super::database::ReadModelDatabase;
use super::error::{ColumnError, FieldError, FindError};
use super::key::{IntoKey, Key};
use super::table::Table;
use super::value::Value;
use crate::contract::BoxFuture;

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
    /// It takes a pool, a connection or a transaction, and the key by value, by reference or as a `&str`:
    /// `User::find(store.pool(), "ada")`, or `Line::find(&mut *tx, (order, 7))` for a key of two fields. Behind a pooler in transaction mode, call it inside
    /// a transaction. [`EventStore::find_as_of`](crate::EventStore::find_as_of) waits until the row
    /// shows an event that was just appended.
    ///
    /// Without a schema in the name of the table, the view is the first one in the connection's
    /// `search_path`. [`EventStore::find`](crate::EventStore::find) reads that of its store, which
    /// matters with a [schema for each tenant](crate::guide::tenants).
    ///
    /// # Errors
    /// [`FindError::OtherVersion`] if the view shows a version whose columns are not those of this
    /// struct, or if the database refuses.
    // An opaque future would repeat the bound of the key, and the compiler each message about it.
    fn find<'c, DB, A>(
        from: A,
        key: impl IntoKey<Self::Key>,
    ) -> BoxFuture<'c, Result<Option<Self>, FindError>>
    where
        DB: ReadModelDatabase,
        A: Acquire<'c, Database = DB> + Send + 'c,
    {
        let key = key_values::<Self>(&key.into_key());
        Box::pin(async move {
            let mut connection = from.acquire().await?;
            let values = DB::find(&mut connection, Self::TABLE, None, key?).await?;
            Ok(values.map(Self::from_values).transpose()?)
        })
    }
}

/// The values of a key's columns.
pub(crate) fn key_values<R: ReadModel>(key: &R::Key) -> Result<Vec<Value>, FieldError> {
    let mut values = Vec::new();
    key.to_values(&mut values)?;
    Ok(values)
}
