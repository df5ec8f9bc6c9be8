//! What generated code of read models calls: one item for each mistake that the compiler may have to
//! explain.

use std::collections::HashSet;
use std::error::Error;
use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use super::batch::fold_batch;
use super::columns::{ColumnNormalizer, ColumnReader, ColumnWriter};
use super::database::ReadModelDatabase;
use super::error::{ColumnError, FieldError};
use super::field::Field;
use super::fold::Fold;
use super::key::{AggregateKey, Key, KeyField};
use super::model::ReadModel;
use super::rows::Rows;
use super::table::{Table, TableColumn};
use crate::contract::generated::IsError;
use crate::contract::{BatchError, Context, HandlerError, PersistedEvent};

type Write<T> = fn(&T, &mut ColumnWriter<'_>) -> Result<(), ColumnError>;
type Read<T> = fn(&mut ColumnReader) -> Result<T, ColumnError>;
type Normalize<T> = fn(&mut T, &mut ColumnNormalizer) -> Result<(), ColumnError>;

/// How a field becomes a column.
///
/// It has no bound on `T`, so that a type without a column is reported once, by the function that
/// returns the codec.
#[derive(Clone, Copy, Debug)]
pub struct Codec<T, X = ()> {
    /// The column, without its name.
    column: TableColumn,
    write: Write<T>,
    read: Read<T>,
    normalize: Normalize<T>,
    extra: X,
}

impl<T, X: Copy> Codec<T, X> {
    /// The column with its name.
    #[must_use]
    pub const fn column(&self, name: &'static str) -> TableColumn {
        TableColumn {
            name,
            ..self.column
        }
    }

    /// Appends the value of the field.
    #[inline]
    pub fn write(&self, field: &T, columns: &mut ColumnWriter<'_>) -> Result<(), ColumnError> {
        (self.write)(field, columns)
    }

    /// Reads the field from the next column.
    #[inline]
    pub fn read(&self, columns: &mut ColumnReader) -> Result<T, ColumnError> {
        (self.read)(columns)
    }

    /// Gives the field its stored form.
    #[inline]
    pub fn normalize(
        &self,
        field: &mut T,
        columns: &mut ColumnNormalizer,
    ) -> Result<(), ColumnError> {
        (self.normalize)(field, columns)
    }
}

impl<T> Codec<T, fn(&T) -> T> {
    /// Copies (a part of) the key.
    #[inline]
    pub fn copy(&self, field: &T) -> T {
        (self.extra)(field)
    }
}

impl<T> Codec<T, fn(&mut T, i64)> {
    /// Sets the position.
    #[inline]
    pub fn set(&self, field: &mut T, position: i64) {
        (self.extra)(field, position);
    }
}

/// The codec of a field with a column of its own.
#[must_use]
pub const fn codec<T: Field>() -> Codec<T> {
    Codec {
        column: TableColumn::of::<T>(""),
        write: write_field,
        read: ColumnReader::field,
        normalize: normalize_field,
        extra: (),
    }
}

fn write_field<T: Field>(field: &T, columns: &mut ColumnWriter<'_>) -> Result<(), ColumnError> {
    columns.field(field).map(|_| ())
}

fn normalize_field<T: Field>(
    field: &mut T,
    columns: &mut ColumnNormalizer,
) -> Result<(), ColumnError> {
    columns.field(field).map(|_| ())
}

/// The type of a field with an `sql_type`.
#[diagnostic::on_unimplemented(
    message = "a field of type `{Self}` cannot have a `sql_type`",
    label = "no `Display` and `FromStr`",
    note = "its value travels as text: implement `Display` and `FromStr` for `{Self}`, with an error that implements `std::error::Error`"
)]
pub trait TextField: Sized {
    /// Appends the text of the field, or NULL.
    fn write(field: Option<&Self>, columns: &mut ColumnWriter<'_>);

    /// Reads the field from the text of the next column.
    ///
    /// # Errors
    /// If the text cannot be read as a `Self`.
    fn read(columns: &mut ColumnReader) -> Result<Self, ColumnError>;

    /// The same, with `None` for NULL.
    ///
    /// # Errors
    /// If the text cannot be read as a `Self`.
    fn read_optional(columns: &mut ColumnReader) -> Result<Option<Self>, ColumnError>;

    /// Gives the field its stored form.
    ///
    /// # Errors
    /// If its text is read as a value with another text, or not at all.
    fn normalize(
        field: Option<&mut Self>,
        columns: &mut ColumnNormalizer,
    ) -> Result<(), ColumnError>;
}

#[diagnostic::do_not_recommend]
impl<T: Display + FromStr<Err: Into<Box<dyn Error + Send + Sync>>>> TextField for T {
    fn write(field: Option<&Self>, columns: &mut ColumnWriter<'_>) {
        columns.text(field);
    }

    fn read(columns: &mut ColumnReader) -> Result<Self, ColumnError> {
        columns.text()
    }

    fn read_optional(columns: &mut ColumnReader) -> Result<Option<Self>, ColumnError> {
        columns.optional_text()
    }

    fn normalize(
        field: Option<&mut Self>,
        columns: &mut ColumnNormalizer,
    ) -> Result<(), ColumnError> {
        columns.text(field).map(|_| ())
    }
}

/// The codec of a field with an `sql_type`.
#[must_use]
pub const fn text_codec<T: TextField>(sql_type: &'static str) -> Codec<T> {
    Codec {
        column: TableColumn::other("", sql_type, false),
        write: |field, columns| {
            T::write(Some(field), columns);
            Ok(())
        },
        read: T::read,
        normalize: |field, columns| T::normalize(Some(field), columns),
        extra: (),
    }
}

/// The codec of an optional field with an `sql_type`.
#[must_use]
pub const fn optional_text_codec<T: TextField>(sql_type: &'static str) -> Codec<Option<T>> {
    Codec {
        column: TableColumn::other("", sql_type, true),
        write: |field, columns| {
            T::write(field.as_ref(), columns);
            Ok(())
        },
        read: T::read_optional,
        normalize: |field, columns| T::normalize(field.as_mut(), columns),
        extra: (),
    }
}

/// The type of the field that is marked `position`. It exists for its error message.
#[diagnostic::on_unimplemented(
    message = "the field marked `position` must be an `i64`, but it is a `{Self}`",
    label = "not an `i64`",
    note = "it is filled in with the global position of the last event that changed the row"
)]
pub trait PositionField: Field {
    /// Sets the position.
    fn set(&mut self, position: i64);
}

impl PositionField for i64 {
    fn set(&mut self, position: i64) {
        *self = position;
    }
}

/// The codec of the field that is marked `position`.
#[must_use]
pub const fn position_codec<T: PositionField>() -> Codec<T, fn(&mut T, i64)> {
    Codec {
        column: TableColumn::position(""),
        write: write_field,
        read: ColumnReader::field,
        normalize: normalize_field,
        extra: T::set,
    }
}

/// The codec of (a part of) the key. After a mistake in its type, which is reported at the type of the
/// key, there is one that is never used.
#[derive(Debug)]
pub struct KeyCodec<T>(PhantomData<T>);

impl<T> KeyCodec<T> {
    /// A value whose type mentions the key.
    pub const NEW: Self = Self(PhantomData);
}

impl<T: KeyField> KeyCodec<T> {
    /// Takes precedence over [`NoKeyCodec::CODEC`], since it is inherent.
    pub const CODEC: Codec<T, fn(&T) -> T> = Codec {
        column: TableColumn::key::<T>(""),
        write: write_field,
        read: ColumnReader::field,
        normalize: normalize_field,
        extra: T::clone,
    };
}

/// Applies after a mistake.
pub trait NoKeyCodec<T> {
    /// Is never used.
    const CODEC: Codec<T, fn(&T) -> T> = Codec {
        column: TableColumn::key::<String>(""),
        write: |_, _| Err(NO_KEY),
        read: |_| Err(NO_KEY),
        normalize: |_, _| Err(NO_KEY),
        extra: |_| std::process::abort(),
    };
}

impl<T> NoKeyCodec<T> for KeyCodec<T> {}

const NO_KEY: ColumnError = ColumnError {
    table: "",
    column: "",
    error: FieldError::Nul,
};

/// The table of a struct with a mistake.
pub const NO_TABLE: &Table = &Table::new("_", &[TableColumn::key::<String>("_")]);

/// The type of rows. Generated code mentions it as a projection, which is an error of its own in a type
/// that is not a read model and keeps the compiler from reporting others.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a read model",
    label = "no `ReadModel` here",
    note = "write `#[derive(ReadModel)]` and `#[read_model(table = \"…\")]` on `{Self}`, and mark its key with `#[read_model(key)]`"
)]
pub trait RowType {
    /// The type of its key.
    type Key: Key;
}

#[diagnostic::do_not_recommend]
impl<R: ReadModel> RowType for R {
    type Key = R::Key;
}

/// The rows of a fold, some of which have the aggregate id as their key.
#[derive(Debug)]
pub struct ByAggregateId<R>(PhantomData<R>);

/// The rows of a fold whose keys are all named.
#[derive(Debug)]
pub struct ByKey<R>(PhantomData<R>);

/// Rows without a mistake in them.
pub trait RowsOfFold {}

impl<R: ReadModel<Key: AggregateKey>> RowsOfFold for ByAggregateId<R> {}

impl<R: ReadModel> RowsOfFold for ByKey<R> {}

/// The keys of a row.
#[derive(Debug)]
pub struct KeysOf<R>(PhantomData<R>);

impl<R: ReadModel> KeysOf<R> {
    /// Requires that the aggregate id can be the key. Takes precedence over
    /// [`NoAggregateId::aggregate_id`], since it is inherent.
    pub fn aggregate_id()
    where
        R::Key: AggregateKey,
    {
    }
}

/// Applies to a type that is not a read model, which is reported elsewhere.
pub trait NoAggregateId {
    /// Requires nothing.
    fn aggregate_id() {}
}

impl<R> NoAggregateId for KeysOf<R> {}

/// The table of a row. A type that is not a row, which is reported elsewhere, has none.
#[derive(Debug)]
pub struct TableOf<R>(PhantomData<R>);

impl<R: ReadModel> TableOf<R> {
    /// Takes precedence over [`NoTable::TABLE`], since it is inherent.
    pub const TABLE: Option<&'static Table> = Some(R::TABLE);
}

/// Applies after a mistake.
pub trait NoTable {
    /// There is no table.
    const TABLE: Option<&'static Table> = None;
}

impl<R> NoTable for TableOf<R> {}

/// The aggregate id as a key, or as one part of it.
///
/// # Errors
/// If the id is not a key of that type.
pub fn aggregate_id<K: AggregateKey>(event: &PersistedEvent) -> Result<K, HandlerError> {
    Ok(K::from_aggregate_id(&event.aggregate_id)?)
}

/// The value of `key = …`: a key, an `Option`, or anything else that yields keys. `M` tells which.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a row, whose key is `{K}`",
    label = "not `{K}`",
    note = "write an expression for `{K}`, for an `Option` of it (`None`: the event is not about a row), or for a list of them"
)]
pub trait IntoKeys<K, M> {
    /// Appends the keys.
    fn add_to(self, keys: &mut Vec<K>);
}

/// Marks a key by value.
#[derive(Debug)]
pub struct ByValue;

/// Marks a key by reference.
#[derive(Debug)]
pub struct ByReference;

/// Marks a key by reference to a reference, as patterns and iterators yield it.
#[derive(Debug)]
pub struct ByTwoReferences;

/// Marks a reference to a reference to what `M` marks, as patterns yield it.
#[derive(Debug)]
pub struct Through<M>(PhantomData<M>);

/// Marks a key by the form that it has when borrowed.
#[derive(Debug)]
pub struct Borrowed;

/// Marks several keys, each marked by `M`.
#[derive(Debug)]
pub struct Several<M>(PhantomData<M>);

#[diagnostic::do_not_recommend]
impl<K: Key> IntoKeys<K, ByValue> for K {
    fn add_to(self, keys: &mut Vec<K>) {
        keys.push(self);
    }
}

#[diagnostic::do_not_recommend]
impl<K: Key> IntoKeys<K, ByReference> for &K {
    fn add_to(self, keys: &mut Vec<K>) {
        keys.push(self.clone());
    }
}

#[diagnostic::do_not_recommend]
impl<'a, K, M, T: ?Sized> IntoKeys<K, Through<M>> for &&'a T
where
    &'a T: IntoKeys<K, M>,
{
    fn add_to(self, keys: &mut Vec<K>) {
        IntoKeys::<K, M>::add_to(*self, keys);
    }
}

#[diagnostic::do_not_recommend]
impl IntoKeys<String, Borrowed> for &str {
    fn add_to(self, keys: &mut Vec<String>) {
        keys.push(self.to_owned());
    }
}

#[diagnostic::do_not_recommend]
impl<K, M, I: IntoIterator<Item: IntoKeys<K, M>>> IntoKeys<K, Several<M>> for I {
    fn add_to(self, keys: &mut Vec<K>) {
        for one in self {
            one.add_to(keys);
        }
    }
}

/// The keys that an expression yields, each once.
///
/// # Errors
/// Never: the caller returns other errors.
pub fn keys_of<K: Key, S: IntoKeys<K, M>, M>(source: S) -> Result<Vec<K>, HandlerError> {
    let mut keys = Vec::new();
    source.add_to(&mut keys);
    Ok(distinct(keys))
}

/// A part of the event that names keys. It exists for its error message, which shows its type instead
/// of a reference to it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a row, whose key is `{K}`",
    label = "not `{K}`",
    note = "write an expression for `{K}`, for an `Option` of it (`None`: the event is not about a row), or for a list of them"
)]
pub trait KeyPlace<'a, K, M> {
    /// Appends the keys.
    fn add_to(&'a self, keys: &mut Vec<K>);
}

#[diagnostic::do_not_recommend]
impl<'a, K, M, T: ?Sized + 'a> KeyPlace<'a, K, M> for T
where
    &'a T: IntoKeys<K, M>,
{
    fn add_to(&'a self, keys: &mut Vec<K>) {
        IntoKeys::add_to(self, keys);
    }
}

/// The keys that a part of the event names, each once.
///
/// # Errors
/// Never: the caller returns other errors.
pub fn keys_of_place<'a, K: Key, T: KeyPlace<'a, K, M> + ?Sized, M>(
    place: &'a T,
) -> Result<Vec<K>, HandlerError> {
    let mut keys = Vec::new();
    place.add_to(&mut keys);
    Ok(distinct(keys))
}

fn distinct<K: Key>(mut keys: Vec<K>) -> Vec<K> {
    if keys.len() > 1 {
        let mut known = HashSet::with_capacity(keys.len());
        keys.retain(|key| known.insert(key.clone()));
    }
    keys
}

/// A key of `N` parts. It exists for its error message.
#[diagnostic::on_unimplemented(
    message = "a tuple of {N} does not name a row, whose key is `{Self}`",
    label = "not `{Self}`",
    note = "write one part for each field marked `#[read_model(key)]`, and no tuple if there is only one"
)]
pub trait KeyOfParts<const N: usize>: Sized {
    /// Its parts.
    type Parts;

    /// The key with these parts.
    fn of(parts: Self::Parts) -> Self;
}

/// Implements [`KeyOfParts`] for a tuple.
macro_rules! parts {
    ($number:literal $($part:ident)+) => {
        #[diagnostic::do_not_recommend]
        impl<$($part: KeyField),+> KeyOfParts<$number> for ($($part,)+) {
            type Parts = Self;

            fn of(parts: Self) -> Self {
                parts
            }
        }
    };
}

parts!(2 A B);
parts!(3 A B C);
parts!(4 A B C D);
parts!(5 A B C D E);
parts!(6 A B C D E F);
parts!(7 A B C D E F G);
parts!(8 A B C D E F G H);

/// The only key that an event is about, from its parts.
///
/// # Errors
/// Never: the caller returns other errors.
pub fn key_of_parts<K: KeyOfParts<N>, const N: usize>(
    parts: K::Parts,
) -> Result<Vec<K>, HandlerError> {
    Ok(vec![K::of(parts)])
}

/// One part of a key with several. `M` tells in which form.
#[diagnostic::on_unimplemented(
    message = "this part of the key is `{K}`, not `{Self}`",
    label = "not `{K}`",
    note = "the parts are in the order of the fields marked `#[read_model(key)]`"
)]
pub trait IntoKeyPart<K, M> {
    /// The part.
    fn into_part(self) -> K;
}

#[diagnostic::do_not_recommend]
impl<K: KeyField> IntoKeyPart<K, ByValue> for K {
    fn into_part(self) -> K {
        self
    }
}

#[diagnostic::do_not_recommend]
impl<K: KeyField> IntoKeyPart<K, ByReference> for &K {
    fn into_part(self) -> K {
        self.clone()
    }
}

#[diagnostic::do_not_recommend]
impl<K: KeyField> IntoKeyPart<K, ByTwoReferences> for &&K {
    fn into_part(self) -> K {
        (*self).clone()
    }
}

#[diagnostic::do_not_recommend]
impl IntoKeyPart<String, Borrowed> for &str {
    fn into_part(self) -> String {
        self.to_owned()
    }
}

/// One part of a key with several.
pub fn key_part<K, S: IntoKeyPart<K, M>, M>(source: S) -> K {
    source.into_part()
}

/// The types that a handler takes by mutable reference: the row, or an `Option` of it.
#[diagnostic::on_unimplemented(
    message = "a handler of `{R}` rows cannot take `&mut {Self}`",
    label = "not the row of this consumer",
    note = "write `&mut {R}`, which requires the row, or `&mut Option<{R}>`; to write SQL, make the handler `async` and take `tx: &mut SqliteConnection` or `tx: &mut PgConnection`"
)]
pub trait RowArgument<R: ReadModel>: Sized {
    /// The row with that key.
    ///
    /// # Errors
    /// If the handler requires a row and there is none.
    fn of<'r>(rows: &'r mut Rows<'_, R>, key: &R::Key) -> Result<&'r mut Self, HandlerError>;
}

#[diagnostic::do_not_recommend]
impl<R: ReadModel> RowArgument<R> for R {
    fn of<'r>(rows: &'r mut Rows<'_, R>, key: &R::Key) -> Result<&'r mut R, HandlerError> {
        rows.existing(key)
    }
}

#[diagnostic::do_not_recommend]
impl<R: ReadModel> RowArgument<R> for Option<R> {
    fn of<'r>(rows: &'r mut Rows<'_, R>, key: &R::Key) -> Result<&'r mut Option<R>, HandlerError> {
        rows.row(key)
    }
}

/// Passes a handler its row.
///
/// # Errors
/// If the handler requires a row and there is none.
pub fn row<'r, R: ReadModel, T: RowArgument<R>>(
    rows: &'r mut Rows<'_, R>,
    key: &R::Key,
) -> Result<&'r mut T, HandlerError> {
    T::of(rows, key)
}

/// The return types of a handler without a `&mut` parameter.
#[diagnostic::on_unimplemented(
    message = "a handler of `{R}` rows cannot return `{Self}`",
    label = "neither a `{R}` nor nothing",
    note = "return `{R}`, `Option<{R}>` (`None` leaves the row as it is), nothing, or a `Result` of one of these"
)]
pub trait Returned<R: ReadModel> {
    /// Inserts or replaces the row, if one was returned.
    ///
    /// # Errors
    /// The handler's error, or why the row cannot be stored.
    fn put(self, rows: &mut Rows<'_, R>, key: &R::Key) -> Result<(), HandlerError>;
}

impl<R: ReadModel> Returned<R> for () {
    fn put(self, _: &mut Rows<'_, R>, _: &R::Key) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<R: ReadModel> Returned<R> for R {
    fn put(self, rows: &mut Rows<'_, R>, key: &R::Key) -> Result<(), HandlerError> {
        rows.put(key, self)
    }
}

#[diagnostic::do_not_recommend]
impl<R: ReadModel> Returned<R> for Option<R> {
    fn put(self, rows: &mut Rows<'_, R>, key: &R::Key) -> Result<(), HandlerError> {
        self.map_or(Ok(()), |row| rows.put(key, row))
    }
}

impl<R: ReadModel, T: Returned<R>, E: IsError> Returned<R> for Result<T, E> {
    fn put(self, rows: &mut Rows<'_, R>, key: &R::Key) -> Result<(), HandlerError> {
        self.map_err(IsError::into_handler_error)?.put(rows, key)
    }
}

/// Inserts or replaces the row that a handler returned, if it returned one.
///
/// # Errors
/// The handler's error, or why the row cannot be stored.
pub fn returned<R: ReadModel, T: Returned<R>>(
    returned: T,
    rows: &mut Rows<'_, R>,
    key: &R::Key,
) -> Result<(), HandlerError> {
    returned.put(rows, key)
}

/// The return types of a handler that takes its row, or none.
#[diagnostic::on_unimplemented(
    message = "a handler that takes its row by `&mut` changes it in place, and cannot return `{Self}`",
    label = "neither nothing nor a `Result` of nothing",
    note = "remove the return type, or remove the `&mut` parameter and return the row; an error is returned as `Result<(), HandlerError>`"
)]
pub trait Changed {
    /// The handler's error.
    ///
    /// # Errors
    /// The handler's error.
    fn into_result(self) -> Result<(), HandlerError>;
}

impl Changed for () {
    fn into_result(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<T: Changed, E: IsError> Changed for Result<T, E> {
    fn into_result(self) -> Result<(), HandlerError> {
        self.map_err(IsError::into_handler_error)?.into_result()
    }
}

/// Converts the result of a handler that returns no row.
///
/// # Errors
/// The handler's error.
pub fn changed<T: Changed>(returned: T) -> Result<(), HandlerError> {
    returned.into_result()
}

/// Folds one event into its rows.
///
/// # Errors
/// Why the event failed.
pub async fn fold_one<DB: ReadModelDatabase, F: Fold>(
    fold: &F,
    cx: &Context,
    tx: &mut DB::Connection,
    event: &PersistedEvent,
) -> Result<(), HandlerError> {
    match fold_batch::<DB, F>(fold, cx, tx, std::slice::from_ref(event)).await {
        Ok(_) => Ok(()),
        Err(failed) => Err(failed.error),
    }
}

/// Folds consecutive events of a batch into their rows, of which the first is at index `handled`, and
/// returns how many.
///
/// # Errors
/// The error of the fold, with its index in the batch.
pub async fn fold_run<DB: ReadModelDatabase, F: Fold>(
    fold: &F,
    cx: &Context,
    tx: &mut DB::Connection,
    run: &[PersistedEvent],
    handled: usize,
) -> Result<usize, BatchError> {
    let mut result = fold_batch::<DB, F>(fold, cx, tx, run).await;
    if let Err(failed) = &mut result {
        failed.handled += handled;
    }
    result
}
