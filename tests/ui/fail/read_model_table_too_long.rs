use consumer::prelude::*;

#[derive(ReadModel)]
#[read_model(table = "shop.the_users_of_the_shop_with_everything_that_we_know_about_them_")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

fn main() {}
