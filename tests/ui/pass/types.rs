//! Where a consumer's type may be and what it may look like: private, in a module, in a function,
//! a concrete generic, with a default, an alias.
#![allow(clippy::wildcard_imports)]

use consumer::prelude::*;
use consumer::sqlx::{Connection as _, Sqlite};

mod models {
    #[derive(Default)]
    pub(crate) struct Counter {
        pub(crate) _count: std::sync::atomic::AtomicU64,
    }
    pub(crate) struct Unit;
    #[derive(Default)]
    pub(crate) struct Tuple(pub(crate) u8);
    mod deep {
        pub(super) struct Hidden;
        #[super::super::consumer(name = "hidden")]
        impl Hidden {
            async fn handle(&self, _: &consumer::PersistedEvent) -> Result<(), String> {
                Ok(())
            }
        }
        #[derive(Default)]
        pub(crate) enum Choice {
            #[default]
            One,
        }
    }
    pub(crate) use deep::Choice;
    const _: fn() -> deep::Hidden = || deep::Hidden;
}

use models::*;

macro_rules! consumer_of {
    ($name:literal, $type:ty) => {
        #[consumer(name = $name)]
        impl $type {
            async fn handle(&self, _event: &PersistedEvent) -> Result<(), String> {
                Ok(())
            }
        }
    };
}

struct Generic<T>(std::marker::PhantomData<T>);
struct User;
struct Order;

impl<T> Default for Generic<T> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

type Alias = Generic<Order>;
type Connection = SqliteConnection;
type Cx = Context;
type Outcome = Result<(), HandlerError>;

consumer_of!("generic", Generic<User>);
consumer_of!("choice", Choice);

#[consumer(name = "alias")]
impl Alias {
    async fn take(&self) {}

    async fn handle(&self, _tx: &mut Connection, cx: &Cx, _event: &PersistedEvent) -> Outcome {
        self.take().await;
        cx.after_commit(async {});
        Ok(())
    }
}

#[consumer(name = "counter")]
impl Counter {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), anyhow::Error> {
        Ok(())
    }
}

#[consumer(name = "unit")]
impl crate::models::Unit {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), consumer::sqlx::Error> {
        Ok(())
    }
}

#[consumer(name = "tuple")]
impl models::Tuple {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), std::io::Error> {
        let _ = self.0;
        Ok(())
    }
}

#[derive(Default)]
struct Buckets<const N: usize>;

#[derive(Debug)]
struct Full<const N: usize>;

impl<const N: usize> std::fmt::Display for Full<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "more than {N}")
    }
}

impl<const N: usize> std::error::Error for Full<N> {}

// Braces in a type are not the body of a function.
#[consumer(name = "buckets")]
impl Buckets<{ 2 + 1 }> {
    const LIMIT: usize = { 2 + 1 };
    const ROWS: [Full<{ 1 + 1 }>; 2] = [Full, Full];

    async fn handle(&self, _event: &PersistedEvent) -> Result<(), Full<{ 2 + 1 }>>
    where
        Full<{ 1 + 1 }>: Send,
    {
        let _ = (Self::LIMIT, Self::ROWS);
        Ok(())
    }
}

struct Documented;

#[consumer(name = "documented")]
impl Documented {
    #![allow(dead_code)]
    //! What stands here belongs to the block, and not to the first method.

    async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Outcome {
        if event.event_type.is_empty() {
            return Ok(());
        }
        // A savepoint is the handler's own.
        let savepoint = tx.begin().await?;
        savepoint.commit().await?;
        let savepoint = tx.begin().await?;
        savepoint.rollback().await?;
        Ok(())
    }

    fn nobody_calls_this() {}
}

fn main() {
    struct InAFunction;

    #[consumer(name = "in_a_function")]
    impl InAFunction {
        async fn handle(&self, _event: &PersistedEvent) -> Result<(), String> {
            Ok(())
        }
    }

    #[consumer(name = "struct_in_a_function", database = Sqlite)]
    struct StructInAFunction;

    impl Handler<Sqlite> for StructInAFunction {
        async fn handle(
            &self,
            _cx: &Context,
            _tx: &mut SqliteConnection,
            _event: &PersistedEvent,
        ) -> Result<(), HandlerError> {
            Ok(())
        }
    }

    let registry = consumer::Registry::<Sqlite>::discover().unwrap();
    let names: Vec<&str> = registry
        .registered()
        .iter()
        .map(|one| &*one.declaration.name)
        .collect();
    assert_eq!(
        names,
        [
            "alias",
            "buckets",
            "choice",
            "counter",
            "documented",
            "generic",
            "hidden",
            "in_a_function",
            "struct_in_a_function",
            "tuple",
            "unit"
        ]
    );
}
