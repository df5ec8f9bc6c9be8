//! What is being deployed: `users` has gone, `invoices` has come.

fn main() {
    consumer_tests::worker_main(&["orders", "invoices"]);
}
