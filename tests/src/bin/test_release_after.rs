//! A worker of the release after, whose consumers know only its events.

fn main() {
    consumer_tests::release_main::<consumer_tests::releases::after::OrderEvent>(&[
        "orders", "ledger",
    ]);
}
