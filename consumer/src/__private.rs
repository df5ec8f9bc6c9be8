//! Items that generated code uses; not part of the API, and changed without notice.

#[cfg(feature = "auto-register")]
pub use inventory;

pub use std::borrow::Cow;

pub use bytes::Bytes;
pub use serde_json;

pub use crate::contract::generated::{
    Borrowed, NotBorrowed, Shareable, Transaction, batch, context, is_ignored, not_ignored, one,
    outcome, part, run, send, several, shared, slice, taken, transaction, up_to_ignored, whole,
};
pub use crate::contract::read_model::generated::{
    ByAggregateId, ByKey, KeyCodec, KeysOf, NO_TABLE, NoAggregateId, NoKeyCodec, NoTable, RowType,
    TableOf, aggregate_id, changed, codec, fold_one, fold_run, key_of_parts, key_part, keys_of,
    keys_of_place, optional_text_codec, position_codec, returned, row, text_codec,
};
pub use crate::contract::typed::{
    EventShape, PlainContent, Typed, Upcast, VariantType, decode_json, encode_json, event_type_of,
    expect_event, is_version_in, nothing, typed, unknown_type, unknown_version, upcast_with,
};
pub use crate::contract::variant::{decode_variant, encode_variant};
pub use crate::contract::variant_handler::{
    EventEnum, NoVariants, Variant, VariantsOf, variant, variant_events, variant_index,
};
pub use crate::contract::{Handled, chain};
pub use crate::registry::construct::{
    DefaultInstance, InitWith, Instance, NoInit, NoValue, OneConsumerBlockForEachType,
    default_instance, no_value,
};
pub use crate::registry::entry::{
    Entry, Factory, FactoryFor, FoldFactory, NO_FACTORIES, NoFactory, NoFoldFactory,
};
pub use crate::registry::handled::{HandlerRows, HandlerShape, check};
pub use crate::registry::knowledge::{Knowledge, KnownAggregate};
pub use crate::registry::lock::{LockError, check_lock};

use crate::contract::{Aggregate, Event};

/// Returns the aggregate type of a type in `aggregates`.
#[must_use]
pub const fn aggregate_type<A: Aggregate>() -> &'static str {
    <A as Event>::AGGREGATE_TYPE
}

/// Returns the event types of a type in `aggregates`.
#[must_use]
pub const fn aggregate_events<A: Aggregate>() -> &'static [&'static str] {
    <A as Event>::EVENT_TYPES
}

/// Returns which versions of an event type a type in `aggregates` reads.
#[must_use]
pub const fn aggregate_reads<A: Aggregate>() -> fn(&str, i32) -> bool {
    <A as Event>::reads
}
