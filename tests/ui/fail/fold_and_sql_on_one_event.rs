use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "User")]
struct Registered {
    email: String,
}

struct Users;

#[consumer(name = "users", read_model = User)]
impl Users {
    #[on]
    fn registered(&self, _user: &mut User, _event: Registered) {}

    #[on]
    async fn welcomed(
        &self,
        _tx: &mut SqliteConnection,
        _event: Registered,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
