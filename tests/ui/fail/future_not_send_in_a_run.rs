use std::rc::Rc;

use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Registered {
    email: String,
}

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on]
    async fn registered(&self, _events: &[Envelope<'_, Registered>]) -> Result<(), HandlerError> {
        let count = Rc::new(1);
        tokio::task::yield_now().await;
        drop(count);
        Ok(())
    }
}

fn main() {}
