use consumer::prelude::*;

struct Users;

#[consumer(name = " users", agregates = ["User"], retries = "five", batch_size = 0)]
impl Users {
    #[on]
    fn registered(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on("UserRenamed", "UserRenamed")]
    async fn renamed(&mut self, _event: PersistedEvent, _more: (u8, u8)) {}

    #[on(othr)]
    async fn rest(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on(reset)]
    async fn empty(_tx: SqliteConnection, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
