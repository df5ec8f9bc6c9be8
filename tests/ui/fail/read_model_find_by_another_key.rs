use std::time::Duration;

use consumer::prelude::*;
use consumer::read_model::FindError;

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

#[derive(ReadModel)]
#[read_model(table = "lines")]
struct Line {
    #[read_model(key)]
    order: String,
    #[read_model(key)]
    number: i64,
    text: String,
}

async fn read(store: SqliteEventStore) -> Result<(), FindError> {
    User::find(store.pool(), 7).await?;
    store.find::<User>(&7).await?;
    Line::find(store.pool(), "order-7").await?;
    Line::find(store.pool(), (2, "order-7")).await?;
    let timeout = Duration::from_secs(5);
    store.find_as_of::<User>(("ada", 1), 1, timeout).await?;
    Ok(())
}

fn main() {}
