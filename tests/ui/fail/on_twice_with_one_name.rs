use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on("A")]
    #[on("A")]
    async fn one(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on("B")]
    #[on(other)]
    async fn two(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
