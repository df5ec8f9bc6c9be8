//! Read models: tables that the library owns, and that events are applied to without SQL.
//!
//! A row is a [`ReadModel`], and a consumer that applies events to rows is a [`Fold`]. The attributes
//! write both, and by hand they look as in [`fold_batch`]. Rows travel as [`Value`]s, so that
//! neither knows a database; what a database does with them is a [`ReadModelDatabase`].

mod batch;
mod column_type;
mod columns;
mod database;
mod error;
mod field;
mod fold;
pub(crate) mod generated;
mod json;
mod key;
mod keys;
mod model;
mod numbers;
mod rows;
mod table;
mod value;

pub use self::batch::{clear, fold_batch};
pub use self::column_type::ColumnType;
pub use self::columns::{ColumnNormalizer, ColumnReader, ColumnWriter};
pub use self::database::{Loaded, ReadModelDatabase};
pub use self::error::{ColumnError, FieldError, FindError, KeyError, RowError};
pub use self::field::Field;
pub use self::fold::Fold;
pub use self::key::{AggregateKey, IntoKey, Key, KeyField};
pub use self::keys::Keys;
pub use self::model::ReadModel;
#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
pub(crate) use self::model::key_values;
pub use self::rows::Rows;
pub use self::table::{ColumnRole, Table, TableColumn, VersionTable};
pub use self::value::Value;
