//! The release before of the guide to deploying, which runs beside the release after, `deploy_after`.
//!
//! `DATABASE_URL=postgres://… cargo run -p consumer-examples --features services --bin deploy_before -- --help`.

mod shop;

use std::process::ExitCode;

use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(aggregate = "Order")]
enum OrderEvent {
    Placed { cents: i64 },
    Paid,
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
struct Billing;

#[consumer(name = "billing", aggregates = [OrderEvent], read_model = Invoice)]
impl Billing {
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
}

#[derive(Default)]
struct Totals;

#[consumer(name = "totals", aggregates = [OrderEvent], read_model = Total)]
impl Totals {
    #[on]
    fn changed(total: &mut Option<Total>, event: Envelope<'_, OrderEvent>) {
        let id = event.aggregate_id.clone();
        match event.payload {
            OrderEvent::Placed { cents } => *total = Some(Total { id, cents }),
            OrderEvent::Paid => {}
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    shop::run(&[OrderEvent::Placed { cents: 900 }, OrderEvent::Paid]).await
}
