use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on]
    async fn registered(&self, _tx: &mut SqliteConnection) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
