use consumer::prelude::*;

const NAME: &str = "users";

struct Constant;

#[consumer(name = NAME)]
impl Constant {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct Path;

#[consumer(name = names::USERS)]
impl Path {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct Concatenated;

#[consumer(name = concat!("us", "ers"))]
impl Concatenated {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct Environment;

#[consumer(name = env!("CARGO_PKG_NAME"))]
impl Environment {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct Others;

#[consumer(name = "users", group = NAME, batch_size = SIZE)]
impl Others {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
