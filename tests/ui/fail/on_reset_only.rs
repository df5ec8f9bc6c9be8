use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on(reset)]
    async fn reset(&self, _tx: &mut SqliteConnection) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
