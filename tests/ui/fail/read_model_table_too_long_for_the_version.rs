use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "shop.the_users_of_the_shop_with_everything_that_we_know_about_the")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

struct Users;

#[consumer(name = "users", read_model = User, version = 10)]
impl Users {
    #[on("Registered")]
    fn registered(_user: &mut User, _event: &PersistedEvent) {}
}

fn main() {}
