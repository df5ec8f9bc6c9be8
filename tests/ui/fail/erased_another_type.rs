use std::sync::Arc;

use consumer::ErasedConsumer;
use consumer::sqlx::Sqlite;

struct NotOne;

fn main() {
    let _: Arc<dyn ErasedConsumer<Sqlite>> = Arc::new(NotOne);
}
