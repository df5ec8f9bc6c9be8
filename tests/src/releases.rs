//! The events of a program, as two releases of it have them.

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

/// The release after, with a new type of event, and a new version of another.
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
        Paid,
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
}
