//! A worker of the release before, whose consumers know only its events.

fn main() {
    consumer_tests::release_main::<consumer_tests::releases::before::OrderEvent>(&[
        "orders", "ledger",
    ]);
}
