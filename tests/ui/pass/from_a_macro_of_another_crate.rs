//! `crate = path` through a re-export, and a `macro_rules!` of another crate that declares a
//! consumer in this one.
#![allow(
    clippy::unwrap_used,
    clippy::unused_async,
    clippy::no_effect_underscore_binding
)]

use consumer_tests::reexport::{self, prelude::*};

struct Renamed;

#[reexport::consumer(name = "renamed", crate = ::consumer_tests::reexport)]
impl Renamed {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[derive(reexport::Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "User", crate = ::consumer_tests::reexport)]
struct UserRegistered {}

consumer_tests::declare_a_consumer!(Foreign, "foreign");

fn main() {
    let registry = reexport::Registry::<reexport::sqlx::Sqlite>::discover().unwrap();
    assert_eq!(registry.registered().len(), 2);
    assert_eq!(
        <UserRegistered as reexport::Event>::EVENT_TYPES,
        ["UserRegistered"]
    );
}
