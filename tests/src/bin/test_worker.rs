//! A worker with the consumers that it is started with, for tests of several processes.

fn main() {
    consumer_tests::worker_main(&[]);
}
