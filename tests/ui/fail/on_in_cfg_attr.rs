use consumer::prelude::*;

struct Users;

#[consumer(name = "users")]
impl Users {
    #[cfg_attr(unix, on("A"))]
    async fn one(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
