//! The release after of the guide to deploying, which replaces the release before, `deploy_before`.
//!
//! `DATABASE_URL=postgres://… cargo run -p consumer-examples --features services --bin deploy_after -- --help`.

mod shop;

use std::process::ExitCode;

use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(aggregate = "Order")]
enum OrderEvent {
    // A new version.
    #[event(version = 2, upcast(1 = PlacedInEuro))]
    Placed {
        cents: i64,
        currency: String,
    },
    Paid,
    // A new type.
    Refunded {
        cents: i64,
    },
}

/// `Placed` as the release before writes it.
#[derive(Deserialize)]
struct PlacedInEuro {
    cents: i64,
}

impl From<PlacedInEuro> for OrderEvent {
    fn from(old: PlacedInEuro) -> Self {
        Self::Placed {
            cents: old.cents,
            currency: "EUR".to_owned(),
        }
    }
}

/// An order that was paid.
#[derive(ReadModel)]
#[read_model(table = "invoices")]
struct Invoice {
    #[read_model(key)]
    id: String,
    #[read_model(position)]
    paid_at: i64,
}

#[derive(Default)]
struct Invoices;

// A new name, with the checkpoint and the table of the old one.
#[consumer(name = "invoices", formerly = "billing", aggregates = [OrderEvent], read_model = Invoice)]
impl Invoices {
    #[on]
    fn changed(event: Envelope<'_, OrderEvent>) -> Option<Invoice> {
        let id = event.aggregate_id.clone();
        let is_paid = matches!(event.payload, OrderEvent::Paid);
        is_paid.then_some(Invoice { id, paid_at: 0 })
    }
}

/// What an order is worth.
#[derive(ReadModel)]
#[read_model(table = "totals")]
struct Total {
    #[read_model(key)]
    id: String,
    cents: i64,
    currency: String,
}

#[derive(Default)]
struct Totals;

// A new version of the read model, with one more column, in a table of its own.
#[consumer(name = "totals", version = 2, aggregates = [OrderEvent], read_model = Total)]
impl Totals {
    #[on]
    fn changed(
        total: &mut Option<Total>,
        event: Envelope<'_, OrderEvent>,
    ) -> Result<(), HandlerError> {
        let id = event.aggregate_id.clone();
        match event.payload {
            OrderEvent::Placed { cents, currency } => {
                *total = Some(Total {
                    id,
                    cents,
                    currency,
                });
            }
            OrderEvent::Refunded { cents } => {
                total.as_mut().ok_or("there is no such order")?.cents -= cents;
            }
            OrderEvent::Paid => {}
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let currency = "CHF".to_owned();
    let placed = OrderEvent::Placed {
        cents: 700,
        currency,
    };
    shop::run(&[
        placed,
        OrderEvent::Paid,
        OrderEvent::Refunded { cents: 200 },
    ])
    .await
}
