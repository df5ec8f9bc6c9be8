//! Inside `macro_rules!`, with every fragment that a name, a type, a literal or a body can be.

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

macro_rules! row {
    ($type:ident, $table:literal, $key:ident: $key_type:ty, $($field:ident: $field_type:ty),+) => {
        #[derive(ReadModel)]
        #[read_model(table = $table)]
        struct $type {
            #[read_model(key)]
            $key: $key_type,
            $($field: $field_type),+
        }
    };
}

row!(User, "users", id: String, email: Option<String>, tags: Vec<u8>);

macro_rules! fold {
    ($type:ident, $row:path, $event:ident, $key:expr, $name:ident => $body:block) => {
        struct $type;

        #[consumer(name = "folded", read_model = $row)]
        impl $type {
            #[on(key = $key)]
            fn registered($name: &mut $row, _event: $event) $body

            #[on("Deleted")]
            fn deleted(_event: &PersistedEvent) -> Option<$row> {
                None
            }
        }
    };
}

fold!(Folded, User, UserRegistered, "ada", user => {
    user.email = None;
});

fn main() {
    let registry = consumer::Registry::<Sqlite>::discover().unwrap();
    assert_eq!(registry.registered().len(), 4);
}
