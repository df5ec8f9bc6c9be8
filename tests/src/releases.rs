//! The events of a program, as two releases of it have them.

use consumer::NewEvent;

use crate::{Database, TestDatabase};

/// The release before.
pub mod before {
    use serde::{Deserialize, Serialize};

    /// The events of an order.
    #[derive(consumer::Event, Serialize, Deserialize)]
    #[event(aggregate = "Order")]
    pub enum OrderEvent {
        /// It was placed.
        Placed {
            /// The sum of its prices.
            total: i64,
        },
        /// It was paid.
        Paid,
    }
}

/// The release after, with a new type of event, and new versions of two others: one has another field, and one
/// its first.
pub mod after {
    use serde::{Deserialize, Serialize};

    /// The events of an order.
    #[derive(consumer::Event, Serialize, Deserialize)]
    #[event(aggregate = "Order")]
    pub enum OrderEvent {
        /// It was placed.
        #[event(version = 2, upcast(1 = PlacedV1))]
        Placed {
            /// The sum of its prices.
            total: i64,
            /// The currency of the prices.
            currency: String,
        },
        /// It was paid.
        #[event(version = 2, upcast(1 = PaidV1))]
        Paid {
            /// How it was paid.
            method: String,
        },
        /// It was paid back.
        Refunded {
            /// How much.
            amount: i64,
        },
    }

    /// `Placed` as the release before writes it.
    #[derive(Serialize, Deserialize)]
    pub struct PlacedV1 {
        total: i64,
    }

    impl From<PlacedV1> for OrderEvent {
        fn from(old: PlacedV1) -> Self {
            Self::Placed {
                total: old.total,
                currency: "EUR".to_owned(),
            }
        }
    }

    /// `Paid` as the release before writes it.
    #[derive(Serialize, Deserialize)]
    pub struct PaidV1 {}

    impl From<PaidV1> for OrderEvent {
        fn from(_: PaidV1) -> Self {
            Self::Paid {
                method: "cash".to_owned(),
            }
        }
    }
}

/// Appends events to some of seven orders, as the release before has them.
pub async fn append_known<DB: TestDatabase>(db: &Database<DB>, count: usize) {
    for n in 0..count {
        let event = if n % 2 == 0 {
            NewEvent::typed(&before::OrderEvent::Placed { total: 1 })
        } else {
            NewEvent::typed(&before::OrderEvent::Paid)
        };
        let event = event.expect("JSON").of(order());
        db.append_event(event).await;
    }
}

/// Appends an event of the new type and one of each new version, in any order, and returns the position of
/// the first.
pub async fn append_unknown<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    let paid = after::OrderEvent::Paid {
        method: "card".to_owned(),
    };
    let mut events = [after::OrderEvent::Refunded { amount: 1 }, placed_v2(), paid];
    fastrand::shuffle(&mut events);
    let [first, others @ ..] = events;
    let position = append_after(db, &first).await;
    for event in others {
        append_after(db, &event).await;
    }
    position
}

/// Appends an event as the release after has it, and returns its position.
pub async fn append_after<DB: TestDatabase>(db: &Database<DB>, event: &after::OrderEvent) -> i64 {
    let event = NewEvent::typed(event).expect("JSON").of(order());
    db.append_event(event).await
}

/// An event of a new version.
pub fn placed_v2() -> after::OrderEvent {
    after::OrderEvent::Placed {
        total: 2,
        currency: "CHF".to_owned(),
    }
}

fn order() -> String {
    format!("o-{}", fastrand::u8(..7))
}
