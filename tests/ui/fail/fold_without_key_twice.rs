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
    #[on("Registered")]
    fn registered(&self, _user: &mut Option<User>, _event: &PersistedEvent) {}

    #[on("Imported", "Registered")]
    fn imported(&self, _user: &mut User, _event: &PersistedEvent) {}
}

fn main() {}
