use consumer::prelude::*;

#[derive(Default)]
struct Users {
    _count: std::cell::Cell<u32>,
}

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
