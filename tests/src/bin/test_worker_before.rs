//! The old release: a worker with `users` and `orders`.

fn main() {
    consumer_tests::worker_main(&["users", "orders"]);
}
