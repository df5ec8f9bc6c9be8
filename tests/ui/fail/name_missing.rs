use consumer::prelude::*;

struct UserReadModel;

#[consumer(aggregates = ["User"])]
impl UserReadModel {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
