use consumer::prelude::*;

struct Übersicht;

#[consumer(aggregates = ["User"])]
impl Übersicht {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
