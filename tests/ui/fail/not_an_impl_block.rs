use consumer::prelude::*;

#[consumer(name = "users")]
async fn users(_event: &PersistedEvent) -> Result<(), HandlerError> {
    Ok(())
}

fn main() {}
