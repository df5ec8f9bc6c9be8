use consumer::prelude::*;
use consumer::sqlx::Sqlite;

#[consumer(name = "users", database = any)]
struct Users;

impl Handler<Sqlite> for Users {
    async fn handle(
        &self,
        _cx: &Context,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
