use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on("A")]
    async fn sqlite(&self, _tx: &mut SqliteConnection, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on("B")]
    async fn postgres(&self, _tx: &mut PgConnection, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
