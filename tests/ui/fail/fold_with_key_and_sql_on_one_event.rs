use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

struct Users;

#[consumer(name = "users", read_model = User)]
impl Users {
    #[on("Registered", "Imported")]
    async fn welcomed(
        &self,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on("Imported", key = "all")]
    fn counted(&self, _user: &mut Option<User>, _event: &PersistedEvent) {}
}

fn main() {}
