use consumer::prelude::*;

#[derive(Default)]
struct Orders;

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "Order")]
struct Paid;

#[consumer(name = "orders", ignore = ["Paid", "Legacy", "Placed"])]
impl Orders {
    #[on]
    async fn paid(&self, _event: Paid) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on("Placed")]
    async fn placed(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
