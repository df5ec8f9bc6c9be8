use consumer::prelude::*;

struct Users;

#[consumer(name = "users", init = make)]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn make(_url: String) -> Result<Users, HandlerError> {
    Ok(Users)
}

fn main() {}
