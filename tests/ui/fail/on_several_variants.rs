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

struct Orders;

#[consumer(name = "orders")]
impl Orders {
    #[on(OrderEvent::Paid, OrderEvent::Cancelled)]
    async fn paid(&self, _event: OrderPaid) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on(OrderEvent::Placed | OrderEvent::Cancelled)]
    async fn placed(&self) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
