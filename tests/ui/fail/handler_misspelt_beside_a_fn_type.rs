use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    const HOOK: fn(&str) = drop_it;

    async fn handel(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn drop_it(_: &str) {}

fn main() {}
