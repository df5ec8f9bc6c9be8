use consumer::prelude::*;
use std::rc::Rc;

#[derive(Default)]
struct Users {
    _count: Rc<u32>,
}

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _tx: &mut SqliteConnection, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
