//! Why a row cannot be stored, or not be read.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// Why the value of a field cannot be stored or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FieldError {
    /// A text contains NUL.
    #[error(
        "the text contains NUL, which Postgres cannot store: remove it, or use a field of type `Vec<u8>`"
    )]
    Nul,
    /// A floating-point number is NaN.
    #[error("NaN cannot be stored, since SQLite has none: use an `Option`, with `None` instead")]
    NotANumber,
    /// JSON contains NaN or infinity.
    #[error("JSON has no NaN and no infinity: use an `Option`, with `None` instead")]
    NotFinite,
    /// JSON contains an integer of more than 64 bits.
    #[error(
        "`{0}` does not fit into the 64 bits of an integer in JSON, and would be rounded: store it as a text"
    )]
    TooLarge(String),
    /// A date or timestamp is too early or too late.
    #[error("`{0}` is outside the years 1 to 9999")]
    OutOfRange(String),
    /// A value cannot be represented as JSON, or a JSON text cannot be read.
    #[error("the value cannot be converted to JSON and back")]
    Json(#[from] serde_json::Error),
    /// A text cannot be read as a value of the field's type.
    #[error("`{text}` cannot be read as `{type_name}`")]
    Unreadable {
        /// The text.
        text: String,
        /// The type of the field.
        type_name: &'static str,
        /// The error of the type's `FromStr`.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A value with an `sql_type` is written as one text and read back as another.
    #[error(
        "`{written}` is read back as `{read}`: round the value in the handler, or choose an `sql_type` that can hold it"
    )]
    Changed {
        /// The text that was written.
        written: String,
        /// The text that was read.
        read: String,
    },
    /// A column holds a value of another type than the field.
    #[error("the column holds {found}, but the field is {expected}")]
    OtherType {
        /// The type of column that the field needs.
        expected: &'static str,
        /// The type of the value that was found.
        found: &'static str,
    },
}

/// Why a column cannot be stored or read, with its name.
#[derive(Debug, Error)]
#[error("column `{column}` of `{table}`")]
pub struct ColumnError {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The cause.
    #[source]
    pub error: FieldError,
}

/// An aggregate id that is not the key of a row.
#[derive(Debug, Error)]
#[error("the aggregate id `{id}` is not a key of type `{type_name}`")]
pub struct KeyError {
    /// The aggregate id.
    pub id: String,
    /// The type of the key.
    pub type_name: &'static str,
    /// The error of the type's `FromStr`.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// Why a row cannot be given to a handler, or not be stored after it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RowError {
    /// A handler requires a row that does not exist.
    #[error(
        "`{table}` has no row `{key}`: if that is possible, take `&mut Option<…>` instead of `&mut …`"
    )]
    Missing {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
    },
    /// A handler asks for a row whose key was not added for its event.
    #[error(
        "the row `{key}` of `{table}` is not loaded: `Fold::keys` did not add it for this event"
    )]
    NotAdded {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
    },
    /// A handler changed the key of a row, or returned a row with another key.
    #[error(
        "the handler turned the row `{key}` of `{table}` into `{other}`: a handler must not change the key; name the row it is about with `key = …`"
    )]
    OtherKey {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
        /// The key after the handler.
        other: String,
    },
    /// A value of a row cannot be stored.
    #[error("cannot store the row `{key}`")]
    Column {
        /// The key.
        key: String,
        /// The column.
        #[source]
        error: ColumnError,
    },
    /// A key cannot be stored.
    #[error("`{key}` cannot be a key")]
    Key {
        /// The key.
        key: String,
        /// The cause.
        #[source]
        error: FieldError,
    },
    /// A key that is not the aggregate id, in a consumer with `segments`.
    #[error(
        "the row `{key}` is not named by its aggregate id, which a consumer with `segments` requires: remove `segments`"
    )]
    Segmented {
        /// The key.
        key: String,
    },
    /// An aggregate id that is not written as its key is, in a consumer with `segments`.
    #[error(
        "the aggregate id `{id}` would share the row `{key}` with the aggregate `{key}`, which may be in another segment: remove `segments`, or use a key of type `String`"
    )]
    OtherSpelling {
        /// The aggregate id.
        id: String,
        /// The key.
        key: String,
    },
}

/// Why a row cannot be read from a read model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FindError {
    /// The view shows a version whose columns are not those of the struct.
    ///
    /// It is only recognised with the feature `worker`; without it, the database's own error is returned.
    #[error(
        "the view `{view}` shows version {shown}, and the struct {}: {}; {}",
        whose(*.wanted),
        .differences.join("; "),
        what_to_do(*.shown, *.wanted)
    )]
    OtherVersion {
        /// The view.
        view: String,
        /// The version that it shows.
        shown: u32,
        /// The version whose table has the columns of the struct, if there is one.
        wanted: Option<u32>,
        /// How the table of the shown version differs from the struct.
        differences: Vec<String>,
    },
    /// No worker has run a consumer with this read model, or its checkpoint was removed.
    #[error("no consumer maintains `{table}` in this database: let a worker run it first")]
    NoConsumer {
        /// The name of the table, without the version.
        table: &'static str,
    },
    /// The consumer is paused before the position.
    #[error("`{consumer}` is paused at {reached}, before {position}: resume it")]
    Paused {
        /// The consumer.
        consumer: Arc<str>,
        /// Its checkpoint.
        reached: i64,
        /// The position that was waited for.
        position: i64,
    },
    /// The consumer has stopped before the position.
    #[error("`{consumer}` stopped at {reached}, before {position}: {error}")]
    Stopped {
        /// The consumer.
        consumer: Arc<str>,
        /// Its checkpoint.
        reached: i64,
        /// The position that was waited for.
        position: i64,
        /// Why it has stopped.
        error: String,
    },
    /// The consumer did not get to the position in time.
    #[error(
        "`{consumer}` is at {reached} after {timeout:?}, and not yet at {position}: is a worker running it?"
    )]
    TimedOut {
        /// The consumer.
        consumer: Arc<str>,
        /// Its checkpoint.
        reached: i64,
        /// The position that was waited for.
        position: i64,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The key cannot be stored, so no row has it.
    #[error("this cannot be a key")]
    Key(#[from] FieldError),
    /// A column holds another type or value than its field can.
    #[error(transparent)]
    Column(#[from] ColumnError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

fn whose(wanted: Option<u32>) -> String {
    match wanted {
        Some(version) => format!("is of version {version}"),
        None => "is of none that a worker has run".to_owned(),
    }
}

fn what_to_do(shown: u32, wanted: Option<u32>) -> String {
    match wanted {
        Some(version) => format!(
            "activate version {version}, or read with a release whose struct is of version {shown}"
        ),
        None => "let a worker run the version of the struct, and activate it".to_owned(),
    }
}
