use std::rc::Rc;

use consumer::prelude::*;

#[derive(Default)]
struct Users {
    seen: Rc<u32>,
}

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        tokio::task::yield_now().await;
        let _ = self.seen;
        Ok(())
    }
}

fn main() {}
