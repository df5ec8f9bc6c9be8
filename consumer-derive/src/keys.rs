//! The words of the attributes. Keys are compared by their constants, so that a typo does not
//! compile.

// Attributes.
pub(crate) const CONSUMER: &str = "consumer";
pub(crate) const EVENT: &str = "event";
pub(crate) const READ_MODEL: &str = "read_model";
pub(crate) const ON: &str = "on";
pub(crate) const CFG: &str = "cfg";
pub(crate) const CFG_ATTR: &str = "cfg_attr";
pub(crate) const SERDE: &str = "serde";
pub(crate) const SQLX: &str = "sqlx";
pub(crate) const DERIVE: &str = "derive";

// Keys of several attributes.
pub(crate) const NAME: &str = "name";
pub(crate) const VERSION: &str = "version";
pub(crate) const CRATE: &str = "crate";
pub(crate) const KEY: &str = "key";

// Keys of `#[consumer(…)]`.
pub(crate) const AGGREGATES: &str = "aggregates";
pub(crate) const START_FROM: &str = "start_from";
pub(crate) const ON_ERROR: &str = "on_error";
pub(crate) const RETRIES: &str = "retries";
pub(crate) const BACKOFF: &str = "backoff";
pub(crate) const BATCH_SIZE: &str = "batch_size";
pub(crate) const BATCH_TIME: &str = "batch_time";
pub(crate) const HANDLER_TIMEOUT: &str = "handler_timeout";
pub(crate) const SEGMENTS: &str = "segments";
pub(crate) const GROUP: &str = "group";
pub(crate) const FORMERLY: &str = "formerly";
pub(crate) const DATABASE: &str = "database";
pub(crate) const INIT: &str = "init";
pub(crate) const IGNORE: &str = "ignore";

// Keys of `#[event(…)]`.
pub(crate) const AGGREGATE: &str = "aggregate";
pub(crate) const UPCAST: &str = "upcast";

// Keys of `#[read_model(…)]`.
pub(crate) const TABLE: &str = "table";
pub(crate) const INDEX: &str = "index";
pub(crate) const POSITION: &str = "position";
pub(crate) const SQL_TYPE: &str = "sql_type";
pub(crate) const RENAME: &str = "rename";

// Words in the place of a value: `database = any`, `formerly = none`, `#[on(other)]`, `#[on(reset)]`, `key = aggregate_id`.
pub(crate) const ANY: &str = "any";
pub(crate) const NONE: &str = "none";
pub(crate) const OTHER: &str = "other";
pub(crate) const RESET: &str = "reset";
pub(crate) const AGGREGATE_ID: &str = "aggregate_id";

// Values of `start_from`, and of `on_error`.
pub(crate) const BEGINNING: &str = "beginning";
pub(crate) const NOW: &str = "now";
pub(crate) const STOP: &str = "stop";
pub(crate) const PARK: &str = "park";
pub(crate) const SKIP: &str = "skip";

// The method that handles every event.
pub(crate) const HANDLE: &str = "handle";
