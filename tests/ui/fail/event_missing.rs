use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _tx: &mut SqliteConnection) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
