//! The strictest crate that there is has nothing to say about generated code.
#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    unused,
    unreachable_pub,
    rust_2018_idioms,
    unused_qualifications
)]
#![allow(clippy::unused_async)]
#![deny(unused_results, single_use_lifetimes, trivial_bounds, unused_lifetimes)]

use consumer::prelude::*;
use consumer::sqlx::Database;
use serde::{Deserialize, Serialize};

/// Registered.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "User", version = 2, upcast(1 = Old))]
pub struct UserRegistered {
    /// Where to write to.
    pub email: String,
}

/// How it was once.
#[derive(Deserialize, Debug)]
pub struct Old {
    /// Where to write to.
    pub mail: String,
}

impl From<Old> for UserRegistered {
    fn from(old: Old) -> Self {
        Self { email: old.mail }
    }
}

/// All of a user.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "User")]
pub enum UserEvent {
    /// Registered.
    Registered(UserRegistered),
    /// Another name.
    Renamed {
        /// The new one.
        name: String,
    },
    /// Gone.
    Deleted,
}

/// Sees users.
#[derive(Debug)]
pub struct Users;

#[consumer(name = "users", aggregates = [UserEvent])]
impl Users {
    /// Documentation stays.
    #[must_use]
    pub const fn helper(&self) -> u8 {
        7
    }

    /// Documentation stays here too.
    ///
    /// # Errors
    /// Never.
    #[on]
    #[allow(clippy::unused_async)]
    pub async fn registered(
        &self,
        tx: &mut SqliteConnection,
        event: Envelope<'_, UserRegistered>,
    ) -> Result<(), HandlerError> {
        drop((tx, event));
        Ok(())
    }

    #[on("Renamed")]
    async fn renamed(&self, _cx: &Context, _event: &PersistedEvent) -> Result<(), String> {
        Ok(())
    }

    #[on(other)]
    async fn other(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// Sees everything.
#[consumer(name = "everything", database = any)]
#[derive(Debug)]
pub struct Everything;

impl<DB: Database> Handler<DB> for Everything {
    async fn handle(
        &self,
        _cx: &Context,
        _tx: &mut DB::Connection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {
    assert_eq!(Users.helper(), 7);
}
