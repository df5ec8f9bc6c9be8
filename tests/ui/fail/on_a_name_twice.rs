use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on("A", "B")]
    async fn one(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on("B")]
    async fn other(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
