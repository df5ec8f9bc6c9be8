use consumer::prelude::*;
use consumer::sqlx::Sqlite;

struct Users;

#[consumer(name = "users")]
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
