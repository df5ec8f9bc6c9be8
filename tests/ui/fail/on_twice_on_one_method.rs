use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[on("A")]
    #[on("B")]
    async fn one(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
