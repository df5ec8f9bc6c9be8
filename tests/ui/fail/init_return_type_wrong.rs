use consumer::prelude::*;

struct Users;

#[consumer(name = "users", init = make)]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn make(_: &Dependencies) -> Users {
    Users
}

fn main() {}
