use consumer::prelude::*;
use consumer::sqlx::SqlitePool;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _pool: SqlitePool, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
