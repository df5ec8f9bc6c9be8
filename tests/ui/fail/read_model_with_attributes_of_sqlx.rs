use consumer::prelude::*;
use consumer::sqlx;

#[derive(ReadModel, sqlx::FromRow)]
#[read_model(table = "users")]
#[sqlx(rename_all = "camelCase")]
struct User {
    #[read_model(key)]
    id: String,
    #[sqlx(rename = "mail")]
    email: String,
}

struct Users;

#[consumer(name = "users", read_model = User)]
impl Users {
    #[on("Changed")]
    fn changed(&self, user: &mut User, _event: &PersistedEvent) {
        user.email.clear();
    }
}

fn main() {}
