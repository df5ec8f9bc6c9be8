use std::rc::Rc;

use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        let count = Rc::new(1);
        tokio::task::yield_now().await;
        drop(count);
        Ok(())
    }
}

fn main() {}
