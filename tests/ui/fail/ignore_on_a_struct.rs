use consumer::prelude::*;
use sqlx::{Sqlite, SqliteConnection};

#[consumer(name = "orders", database = Sqlite, ignore = ["Legacy"])]
#[derive(Default)]
struct Orders;

impl consumer::Handler<Sqlite> for Orders {
    async fn handle(
        &self,
        _: &Context,
        _: &mut SqliteConnection,
        _: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}
