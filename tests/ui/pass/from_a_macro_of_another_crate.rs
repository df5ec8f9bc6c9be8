//! `crate = path` through a re-export, and a `macro_rules!` of another crate that declares a
//! consumer in this one.

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

#[derive(reexport::ReadModel)]
#[read_model(table = "users", crate = ::consumer_tests::reexport)]
struct User {
    #[read_model(key)]
    id: String,
    name: String,
}

struct Users;

#[reexport::consumer(name = "users", read_model = User, crate = ::consumer_tests::reexport)]
impl Users {
    #[on(key = event.aggregate_id)]
    fn registered(user: &mut User, event: Envelope<'_, UserRegistered>) {
        user.name.clone_from(&event.aggregate_id);
    }
}

consumer_tests::declare_a_consumer!(Foreign, "foreign");

fn main() {
    let registry = reexport::Registry::<reexport::sqlx::Sqlite>::discover().unwrap();
    assert_eq!(registry.registered().len(), 3);
    assert_eq!(
        <UserRegistered as reexport::Event>::EVENT_TYPES,
        ["UserRegistered"]
    );
}
