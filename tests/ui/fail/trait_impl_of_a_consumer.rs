use consumer::prelude::*;
use consumer::sqlx::Sqlite;

struct Users;

#[consumer(name = "users")]
impl Consumer<Sqlite> for Users {
    fn name(&self) -> &str {
        "users"
    }

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
