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
    number: i64,
}

struct Users;

#[consumer(name = "other", read_model = User, database = any)]
struct Other;

impl<DB: consumer::sqlx::Database> Handler<DB> for Other {
    async fn handle(&self, _: &Context, _: &mut DB::Connection, _: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
