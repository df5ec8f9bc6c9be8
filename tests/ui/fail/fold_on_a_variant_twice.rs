use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
struct OrderPaid {
    cents: i64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
enum OrderEvent {
    Placed { city: String },
    Paid(OrderPaid),
    Cancelled,
}

#[derive(ReadModel)]
#[read_model(table = "orders")]
struct Order {
    #[read_model(key)]
    id: String,
    cents: i64,
}

struct Orders;

#[consumer(name = "orders", read_model = Order)]
impl Orders {
    #[on(OrderEvent::Paid)]
    fn paid(&self, _order: &mut Order, _event: OrderPaid) {}

    #[on(OrderEvent::Paid, key = event.cents.to_string())]
    fn again(&self, _order: &mut Order, event: OrderPaid) {}
}

fn main() {}
