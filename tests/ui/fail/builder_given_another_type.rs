use consumer::prelude::*;

struct NotOne;

async fn start(store: SqliteEventStore) {
    let _ = Worker::builder(store).consumer(NotOne);
}

fn main() {}
