use consumer::EventStore;

fn last(_store: &EventStore<String>) {}

fn main() {}
