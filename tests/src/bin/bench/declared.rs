//! Read models that are declared with the attribute, as programs have them.

use consumer::prelude::*;
use serde::{Deserialize, Serialize};

/// Declares a row that counts the events of its aggregate; each consumer has a table of its own, which the
/// derive needs as a literal.
macro_rules! total {
    ($row:ident, $table:literal) => {
        #[derive(ReadModel)]
        #[read_model(table = $table)]
        pub(crate) struct $row {
            #[read_model(key)]
            id: String,
            deposits: i64,
            #[read_model(position)]
            position: i64,
        }

        impl $row {
            fn count(row: &mut Option<Self>, id: &str) {
                let new = || Self {
                    id: id.to_owned(),
                    deposits: 0,
                    position: 0,
                };
                row.get_or_insert_with(new).deposits += 1;
            }
        }
    };
}

total!(Total, "declared_totals");
total!(TypedTotal, "typed_totals");

/// Is given the events as they are.
pub(crate) struct Totals;

#[consumer(name = "bench.declared", formerly = none, read_model = Total)]
impl Totals {
    #[on("Deposited", "Noted")]
    fn counted(total: &mut Option<Total>, event: &PersistedEvent) {
        Total::count(total, &event.aggregate_id);
    }
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Account")]
struct Deposited {
    amount: i64,
    text: String,
}

/// Is given the events as values of their type.
pub(crate) struct TypedTotals;

#[consumer(name = "bench.typed", formerly = none, read_model = TypedTotal)]
impl TypedTotals {
    #[on]
    fn deposited(total: &mut Option<TypedTotal>, event: Envelope<'_, Deposited>) {
        std::hint::black_box(&event.payload);
        TypedTotal::count(total, &event.aggregate_id);
    }

    #[on(other)]
    fn noted(total: &mut Option<TypedTotal>, event: &PersistedEvent) {
        TypedTotal::count(total, &event.aggregate_id);
    }
}
