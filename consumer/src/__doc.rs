//! Definitions that the examples of this crate's documentation share; not part of its API.
//!
//! An example that needs a database is one call of [`run`] or [`registered`], hidden in the first and the last line of
//! the example; the consumers and events that many of them need are here too.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Sqlite, SqliteConnection};

use crate::backend::StoreError;
use crate::contract::{
    Consumer, Context, ExpectedVersion, HandlerError, NewEvent, OnError, PersistedEvent, Settings,
};
use crate::store::SqliteEventStore;

/// Runs an example on an empty store in memory.
///
/// # Errors
/// Those of the example.
pub fn run(
    example: impl AsyncFnOnce(SqliteEventStore) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let store = SqliteEventStore::connect("sqlite::memory:").await?;
        store.migrate().await?;
        example(store).await
    })
}

/// Runs an example on a store in memory whose only event is that of [`register`] for `ada`.
///
/// # Errors
/// Those of the example.
pub fn registered(
    example: impl AsyncFnOnce(SqliteEventStore) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    run(async |store| {
        register(&store, "ada").await?;
        example(store).await
    })
}

/// Appends the event `UserRegistered` of one user.
///
/// # Errors
/// Those of the store.
pub async fn register(store: &SqliteEventStore, user: &str) -> Result<PersistedEvent, StoreError> {
    let event = [NewEvent::new("User", user, "UserRegistered", "{}")];
    let stored = store.append(ExpectedVersion::Any, &event).await?;
    stored.into_iter().next().ok_or(StoreError::NothingToAppend)
}

/// A consumer named `users` that takes every event and writes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Users;

impl Consumer<Sqlite> for Users {
    fn name(&self) -> &str {
        "users"
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut SqliteConnection,
        _: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// A consumer named `user_read_model` that inserts the ids of users into a table `users`.
#[derive(Clone, Copy, Debug, Default)]
pub struct UserReadModel;

impl Consumer<Sqlite> for UserReadModel {
    fn name(&self) -> &str {
        "user_read_model"
    }

    fn scope(&self) -> &[&str] {
        &["User"]
    }

    async fn handle(
        &self,
        _: &Context,
        tx: &mut SqliteConnection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let insert = sqlx::query("INSERT INTO users (id) VALUES (?1)");
        insert.bind(&event.aggregate_id).execute(tx).await?;
        Ok(())
    }

    fn can_reset(&self) -> bool {
        true
    }

    async fn reset(&self, _: &Context, tx: &mut SqliteConnection) -> Result<(), HandlerError> {
        sqlx::query("DELETE FROM users").execute(tx).await?;
        Ok(())
    }
}

/// A consumer named `invoices` that stops at its first event until it is [repaired](Self::repair).
#[derive(Debug, Default)]
pub struct Invoices {
    has_tariff: AtomicBool,
}

impl Invoices {
    /// Lets the handler succeed from now on.
    pub fn repair(&self) {
        self.has_tariff.store(true, Ordering::Relaxed);
    }
}

impl Consumer<Sqlite> for Invoices {
    fn name(&self) -> &str {
        "invoices"
    }

    fn settings(&self) -> Settings {
        Settings::default().retries(0).on_error(OnError::Stop)
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut SqliteConnection,
        _: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        if self.has_tariff.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("no such tariff".into())
        }
    }
}

/// Declares items of an example: events, the row `User` of a read model, or the row and a consumer
/// `Users` that registers it.
#[doc(hidden)]
#[macro_export]
macro_rules! __doc_items {
    (events) => {
        #[derive(Event, serde::Serialize, serde::Deserialize)]
        #[event(aggregate = "User")]
        struct UserRegistered {}

        #[derive(Event, serde::Serialize, serde::Deserialize)]
        #[event(aggregate = "User")]
        struct UserRenamed {}
    };
    (account) => {
        #[derive(Debug, serde::Serialize, serde::Deserialize, Event)]
        #[event(aggregate = "Account")]
        enum AccountEvent {
            Opened { owner: String },
            Deposited { cents: i64 },
            Withdrawn { cents: i64 },
        }
    };
    (row) => {
        #[derive(ReadModel)]
        #[read_model(table = "users")]
        struct User {
            #[read_model(key)]
            id: String,
            email: String,
        }
    };
    (consumer) => {
        $crate::__doc_items!(row);

        #[derive(Default)]
        struct Users;

        #[consumer(name = "users", read_model = User)]
        impl Users {
            #[on("Registered")]
            fn registered(&self, event: &PersistedEvent) -> User {
                User {
                    id: event.aggregate_id.clone(),
                    email: "ada@example.com".into(),
                }
            }
        }
    };
}
