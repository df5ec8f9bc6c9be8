use consumer::prelude::*;
use consumer::sqlx::{Postgres, Transaction};

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _tx: Transaction<'_, Postgres>, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
