//! Inside `macro_rules!`, with every fragment that a name, a type, a literal or a body can be.
#![allow(
    clippy::unwrap_used,
    clippy::unused_async,
    clippy::no_effect_underscore_binding
)]

use consumer::prelude::*;
use consumer::sqlx::Sqlite;

macro_rules! declare {
    ($type:ident, $name:literal, $aggregate:expr, $connection:ty, $body:block) => {
        struct $type;

        #[consumer(name = $name, aggregates = [$aggregate])]
        impl $type {
            async fn handle(
                &self,
                _tx: &mut $connection,
                _event: &PersistedEvent,
            ) -> Result<(), HandlerError> $body
        }
    };
}

declare!(Users, "users", "User", SqliteConnection, { Ok(()) });
declare!(Orders, "orders", "Order", SqliteConnection, {
    Err("no".into())
});

macro_rules! on {
    ($type:ty, $($event:ident => $method:ident),+) => {
        #[consumer(name = "typed")]
        impl $type {
            $(
                #[on]
                async fn $method(&self, _event: $event) -> Result<(), HandlerError> {
                    Ok(())
                }
            )+
        }
    };
}

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "User")]
struct UserRegistered {}

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "User")]
struct UserDeleted {}

struct Typed;

on!(Typed, UserRegistered => registered, UserDeleted => deleted);

fn main() {
    let registry = consumer::Registry::<Sqlite>::discover().unwrap();
    assert_eq!(registry.registered().len(), 3);
}
