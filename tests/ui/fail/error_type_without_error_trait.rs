use consumer::prelude::*;

struct Users;
struct Broken;

#[consumer(name = "users")]
impl Users {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), Broken> {
        Ok(())
    }
}

fn main() {}
