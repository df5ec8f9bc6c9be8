//! Rows of two widths, and the statements that one would write by hand for them.

use std::sync::LazyLock;

use consumer::prelude::*;
use consumer_tests::{Folding, folding};

use crate::consumers::UPSERT;

/// The number of columns that only wide rows have.
const MORE: usize = 17;

/// A row that counts the events of its aggregate.
pub(crate) trait Row: ReadModel<Key = String> {
    /// The word for it.
    const WIDTH: &'static str;

    /// The name of the consumer that folds.
    const CONSUMER: &'static str;

    /// The table that handlers with SQL of their own write.
    const BY_HAND: &'static str;

    /// How many columns there are besides the key.
    const NUMBERS: usize;

    fn new(id: String) -> Self;

    /// Counts an event.
    fn count(&mut self, event: &PersistedEvent);

    /// The statement that counts one event, given the id and the position.
    fn upsert() -> &'static str;

    /// The statements that create the table of handlers with SQL anew.
    fn empty_by_hand() -> String {
        let numbers: Vec<String> = columns::<Self>().skip(1).collect();
        let numbers = numbers.join(" BIGINT NOT NULL, ");
        let table = Self::BY_HAND;
        format!(
            "DROP TABLE IF EXISTS {table};
             CREATE TABLE {table} (id TEXT PRIMARY KEY, {numbers} BIGINT NOT NULL)"
        )
    }

    /// The consumer that folds.
    fn counting() -> Folding<Self> {
        folding(
            Self::CONSUMER,
            |_, event, keys| keys.add_aggregate(event),
            |_, event, rows| {
                let id = &event.aggregate_id;
                let row = rows.row(id)?.get_or_insert_with(|| Self::new(id.clone()));
                row.count(event);
                Ok(())
            },
        )
    }
}

/// The names of the columns.
pub(crate) fn columns<R: Row>() -> impl Iterator<Item = String> {
    let more = (1..R::NUMBERS - 1).map(|number| format!("c{number}"));
    let first = ["id", "deposits", "position"].map(str::to_owned);
    first.into_iter().chain(more)
}

/// Which of the columns that only wide rows have an event changes.
pub(crate) fn changed_column(event: &PersistedEvent) -> usize {
    event.global_position as usize % MORE
}

/// A row of three columns.
#[derive(ReadModel)]
#[read_model(table = "totals")]
pub(crate) struct Narrow {
    #[read_model(key)]
    id: String,
    deposits: i64,
    #[read_model(position)]
    position: i64,
}

impl Row for Narrow {
    const WIDTH: &'static str = "narrow";
    const CONSUMER: &'static str = "bench.totals";
    const BY_HAND: &'static str = "balances";
    const NUMBERS: usize = 2;

    fn new(id: String) -> Self {
        let (deposits, position) = (0, 0);
        Self {
            id,
            deposits,
            position,
        }
    }

    fn count(&mut self, _: &PersistedEvent) {
        self.deposits += 1;
    }

    fn upsert() -> &'static str {
        UPSERT
    }
}

/// Declares [`Wide`] with its columns, which a function cannot name.
macro_rules! wide {
    ($($column:ident),+) => {
        /// A row of twenty columns.
        #[derive(ReadModel, Default)]
        #[read_model(table = "wide_totals")]
        pub(crate) struct Wide {
            #[read_model(key)]
            id: String,
            deposits: i64,
            #[read_model(position)]
            position: i64,
            $($column: i64,)+
        }

        impl Wide {
            fn more(&mut self) -> [&mut i64; MORE] {
                [$(&mut self.$column),+]
            }
        }
    };
}

wide!(
    c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17
);

impl Row for Wide {
    const WIDTH: &'static str = "wide";
    const CONSUMER: &'static str = "bench.wide_totals";
    const BY_HAND: &'static str = "wide_balances";
    const NUMBERS: usize = 2 + MORE;

    fn new(id: String) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    fn count(&mut self, event: &PersistedEvent) {
        self.deposits += 1;
        *self.more()[changed_column(event)] += 1;
    }

    fn upsert() -> &'static str {
        static TEXT: LazyLock<String> = LazyLock::new(|| {
            let is_changed =
                |number: usize| format!("CASE $2 % {MORE} WHEN {} THEN 1 ELSE 0 END", number - 1);
            let numbers = || 1..=MORE;
            let list = |of: &dyn Fn(usize) -> String| -> String {
                let items: Vec<String> = numbers().map(of).collect();
                format!(", {}", items.join(", "))
            };
            format!(
                "INSERT INTO wide_balances (id, deposits, position{}) VALUES ($1, 1, $2{})
                 ON CONFLICT (id) DO UPDATE
                 SET deposits = wide_balances.deposits + 1, position = excluded.position{}",
                list(&|number| format!("c{number}")),
                list(&is_changed),
                list(&|number| format!("c{number} = wide_balances.c{number} + excluded.c{number}")),
            )
        });
        TEXT.as_str()
    }
}
