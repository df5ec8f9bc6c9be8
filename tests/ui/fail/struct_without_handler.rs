use consumer::prelude::*;
use consumer::sqlx::Sqlite;

#[consumer(name = "users", database = Sqlite)]
struct Users;

fn main() {}
