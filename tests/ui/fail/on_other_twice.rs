use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on(other)]
    async fn one(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on(other)]
    async fn two(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
