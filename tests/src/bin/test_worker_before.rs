//! What was deployed: a worker that knows `users` and `orders`.

fn main() {
    consumer_tests::worker_main(&["users", "orders"]);
}
