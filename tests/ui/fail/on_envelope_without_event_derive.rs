use consumer::prelude::*;

struct Users;
struct Registered;

#[consumer(name = "users")]
impl Users {
    #[on]
    async fn registered(&self, _event: Envelope<'_, Registered>) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
