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
    #[on("Imported", key = "all")]
    fn counted(&self, _user: &mut Option<User>, _event: &PersistedEvent) {}

    #[on("Imported")]
    fn ignored(&self, _event: &PersistedEvent) {}
}

fn main() {}
