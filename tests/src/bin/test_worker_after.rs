//! The new release: without `users`, with `invoices`.

fn main() {
    consumer_tests::worker_main(&["orders", "invoices"]);
}
