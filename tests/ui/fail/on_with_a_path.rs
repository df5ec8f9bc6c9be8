use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[consumer::on("A")]
    async fn one(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
