use consumer::prelude::*;

struct Users;
struct UserRegistered;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &UserRegistered) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
