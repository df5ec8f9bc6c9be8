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

enum Status {
    Open,
    Paid(OrderPaid),
}

struct Orders;

#[consumer(name = "orders")]
impl Orders {
    #[on(Status::Paid)]
    async fn paid(&self, _event: OrderPaid) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on(Status::Open)]
    async fn open(&self) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
