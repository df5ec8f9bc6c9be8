use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _events: &[String]) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
