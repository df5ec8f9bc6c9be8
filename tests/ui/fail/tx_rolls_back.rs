use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, tx: &mut SqliteConnection, _event: &PersistedEvent) -> Result<(), HandlerError> {
        tx.rollback().await?;
        Ok(())
    }
}

fn main() {}
