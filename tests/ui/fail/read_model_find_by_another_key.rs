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
    Line::find(store.pool(), "order-7").await?;
    store.find::<Line>(("order-7", "2")).await?;
    Ok(())
}

fn main() {}
