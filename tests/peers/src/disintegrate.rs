//! disintegrate, set up as in its documentation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use disintegrate::serde::json::Json;
use disintegrate::{Event, EventListener, EventStore as _, PersistedEvent, StreamQuery, query};
use disintegrate_postgres::{PgEventId, PgEventListener, PgEventListenerConfig, PgEventStore};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use sqlx_0_8 as sqlx;
use tokio::sync::Notify;

use crate::deposits::{Deposit, Statement};
use crate::peer::{Following, Peer};

#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize)]
enum AccountEvent {
    Deposited {
        #[id]
        account: String,
        number: i64,
        amount: i64,
        text: String,
    },
}

/// The rest of its own setup, which fails at the function on Postgres before 16: the function with
/// its mask in decimal, and the column of the account.
const REST_OF_SET_UP: &str = "
CREATE FUNCTION event_store_begin_epoch() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    id BIGINT := (SELECT last_value FROM seq_event_event_id);
    db_id INT := (SELECT oid FROM pg_database WHERE datname = current_database());
BEGIN
    PERFORM pg_try_advisory_xact_lock_shared(db_id, 0);
    PERFORM pg_try_advisory_xact_lock_shared(1, (id & 4294967295)::bit(32)::integer);
    PERFORM pg_try_advisory_xact_lock_shared(2, (id >> 32)::bit(32)::integer);
END $$;
ALTER TABLE event ADD COLUMN account TEXT;
CREATE INDEX idx_event_account ON event (account) WHERE account IS NOT NULL";

/// Creates its tables, even on Postgres before 16, which lacks hexadecimal literals.
async fn set_up(pool: PgPool) -> Store {
    let set_up = PgEventStore::try_new(pool.clone(), Json::default()).await;
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .fetch_one(&pool)
        .await
        .expect("the version of the server");
    if version >= 160_000 {
        return set_up.expect("make its tables");
    }
    sqlx::raw_sql(REST_OF_SET_UP)
        .execute(&pool)
        .await
        .expect("make the rest of its tables");
    PgEventStore::new_uninitialized(pool, Json::default())
}

/// The handler.
struct ReadModel {
    query: StreamQuery<PgEventId, AccountEvent>,
    pool: PgPool,
    statement: Statement,
    handled: Arc<Count>,
}

#[async_trait]
impl EventListener<PgEventId, AccountEvent> for ReadModel {
    type Error = sqlx::Error;

    fn id(&self) -> &'static str {
        "balances"
    }

    fn query(&self) -> &StreamQuery<PgEventId, AccountEvent> {
        &self.query
    }

    async fn handle(&self, event: PersistedEvent<PgEventId, AccountEvent>) -> sqlx::Result<()> {
        let AccountEvent::Deposited {
            account,
            number,
            amount,
            ..
        } = event.into_inner();
        sqlx::query(self.statement)
            .bind(account)
            .bind(amount)
            .bind(number)
            .execute(&self.pool)
            .await?;
        self.handled.add_one();
        Ok(())
    }
}

/// Counts handled events. A listener never returns, so this tells when it has caught up.
#[derive(Default)]
struct Count {
    so_far: AtomicUsize,
    wanted: AtomicUsize,
    reached: Notify,
}

impl Count {
    fn up_to(wanted: usize) -> Arc<Self> {
        let count = Self::default();
        count.wanted.store(wanted, Ordering::Relaxed);
        Arc::new(count)
    }

    fn add_one(&self) {
        if self.so_far.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted.load(Ordering::Relaxed) {
            self.reached.notify_one();
        }
    }
}

type Store = PgEventStore<AccountEvent, Json<AccountEvent>>;

#[derive(Clone)]
pub(crate) struct Disintegrate {
    store: Store,
    pool: PgPool,
    statement: Statement,
}

impl Disintegrate {
    async fn listen(
        self,
        handled: Arc<Count>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) {
        let model = ReadModel {
            query: query!(AccountEvent),
            pool: self.pool,
            statement: self.statement,
            handled,
        };
        PgEventListener::builder(self.store)
            .register_listener(
                model,
                PgEventListenerConfig::poller(Duration::from_millis(50)),
            )
            .start_with_shutdown(shutdown)
            .await
            .expect("handle the events");
    }
}

impl Peer for Disintegrate {
    const PACKAGE: (&'static str, &'static str) = ("disintegrate-postgres", "4.0.1");

    const NOTES: &'static [&'static str] = &[
        "A listener polls every 50 ms, as in its documentation. It reads all new events in one query and \
         saves its checkpoint once for them; the handler writes in a separate transaction.",
        "Its setup needs Postgres 16; on older servers the benchmark creates one function itself, with a \
         decimal constant.",
        "It waits for open transactions by advisory locks that writers take before they draw a position. \
         But its query takes its snapshot before it checks the locks: a transaction that commits in \
         between is neither visible nor waited for.",
        "It appends without validation here, as ours does; its decisions run as serializable \
         transactions, most of which fail under this concurrency.",
    ];

    const EVENTS: &'static str = "event";

    const FORGET: &'static str = "DO $$ BEGIN
             IF to_regclass('event_listener') IS NOT NULL THEN
                 UPDATE event_listener SET last_processed_event_id = 0;
             END IF;
         END $$";

    async fn open(url: &str, statement: Statement) -> Self {
        let pool = PgPoolOptions::new().max_connections(20);
        let pool = pool.connect(url).await.expect("connect");
        let store = set_up(pool.clone()).await;
        Self {
            store,
            pool,
            statement,
        }
    }

    async fn fill(&self, deposits: Vec<Deposit>) {
        for deposits in deposits.chunks(1_000) {
            let events = deposits.iter().cloned().map(AccountEvent::from).collect();
            self.store
                .append_without_validation(events)
                .await
                .expect("store events");
        }
    }

    async fn catch_up(&self, count: usize) {
        let handled = Count::up_to(count);
        let all = Arc::clone(&handled);
        self.clone()
            .listen(handled, async move { all.reached.notified().await })
            .await;
    }

    async fn append(&self, deposit: Deposit) -> anyhow::Result<()> {
        self.store
            .append_without_validation(vec![deposit.into()])
            .await?;
        Ok(())
    }

    async fn follow(&self) -> Following {
        let this = self.clone();
        Following::until(|stopped| {
            this.listen(Arc::default(), async {
                let _ = stopped.await;
            })
        })
    }
}

impl From<Deposit> for AccountEvent {
    fn from(deposit: Deposit) -> Self {
        Self::Deposited {
            account: deposit.account,
            number: deposit.number,
            amount: deposit.amount,
            text: deposit.text,
        }
    }
}
