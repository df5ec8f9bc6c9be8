use consumer::prelude::*;

#[derive(Default)]
struct Orders;

#[consumer(name = "orders", ignore = "Legacy")]
impl Orders {
    #[on("Placed")]
    async fn placed(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
