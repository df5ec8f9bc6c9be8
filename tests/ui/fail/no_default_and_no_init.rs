use consumer::prelude::*;

struct Users {
    url: String,
}

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn url(users: &Users) -> &str {
    &users.url
}

fn main() {}
