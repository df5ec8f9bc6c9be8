use consumer::prelude::*;

#[derive(Default)]
struct Orders;

#[consumer(name = "orders", ignore = ["Legacy"])]
impl Orders {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
