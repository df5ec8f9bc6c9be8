//! cqrs-es with postgres-es, set up as in their documentation.

use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::{PersistedEventRepository as _, QueryReplay, SerializedEvent};
use cqrs_es::{Aggregate, DomainEvent, EventEnvelope, Query};
use postgres_es::{PostgresCqrs, PostgresEventRepository, postgres_cqrs};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use sqlx_0_8 as sqlx;

use crate::deposits::{Deposit, Statement};
use crate::peer::{Following, Peer};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum AccountEvent {
    Deposited {
        number: i64,
        amount: i64,
        text: String,
    },
}

impl DomainEvent for AccountEvent {
    fn event_type(&self) -> String {
        "Deposited".into()
    }

    fn event_version(&self) -> String {
        "1.0".into()
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Account {
    balance: i64,
}

impl Aggregate for Account {
    const TYPE: &'static str = "Account";
    type Command = Deposit;
    type Event = AccountEvent;
    type Error = Infallible;
    type Services = ();

    async fn handle(
        &mut self,
        command: Deposit,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Infallible> {
        sink.write(command.into(), self).await;
        Ok(())
    }

    fn apply(&mut self, event: AccountEvent) {
        let AccountEvent::Deposited { amount, .. } = event;
        self.balance += amount;
    }
}

/// The handler, which cannot report an error.
#[derive(Clone)]
struct ReadModel {
    pool: PgPool,
    statement: Statement,
}

#[async_trait]
impl Query<Account> for ReadModel {
    async fn dispatch(&self, account: &str, events: &[EventEnvelope<Account>]) {
        for event in events {
            let AccountEvent::Deposited { number, amount, .. } = &event.payload;
            sqlx::query(self.statement)
                .bind(account)
                .bind(amount)
                .bind(number)
                .execute(&self.pool)
                .await
                .expect("write the read model");
        }
    }
}

/// The table of its `db/init.sql`.
const TABLE: &str = "
CREATE TABLE events
(
    aggregate_type text                         NOT NULL,
    aggregate_id   text                         NOT NULL,
    sequence       bigint CHECK (sequence >= 0) NOT NULL,
    event_type     text                         NOT NULL,
    event_version  text                         NOT NULL,
    payload        json                         NOT NULL,
    metadata       json                         NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
)";

#[derive(Clone)]
pub(crate) struct CqrsEs {
    framework: Arc<PostgresCqrs<Account>>,
    model: ReadModel,
}

impl CqrsEs {
    fn repository(&self) -> PostgresEventRepository {
        PostgresEventRepository::new(self.model.pool.clone())
    }
}

impl Peer for CqrsEs {
    const PACKAGE: (&'static str, &'static str) = ("cqrs-es", "0.5.0");

    const NOTES: &'static [&'static str] = &[
        "It has no log reader: the appending process runs the handlers after the commit. Commit order \
         does not matter, but a handler that fails, or a crash in between, loses the event silently.",
        "Timed is `QueryReplay::replay_all`, which has no checkpoint: it always starts at the first \
         event, and orders events by their version within the aggregate, not by log position.",
    ];

    const EVENTS: &'static str = "events";

    const FORGET: &'static str = "";

    async fn open(url: &str, statement: Statement) -> Self {
        let pool = PgPoolOptions::new().max_connections(20);
        let pool = pool.connect(url).await.expect("connect");
        sqlx::raw_sql(TABLE)
            .execute(&pool)
            .await
            .expect("make its table");
        let model = ReadModel {
            pool: pool.clone(),
            statement,
        };
        let framework = postgres_cqrs(pool, vec![Box::new(model.clone())], ());
        Self {
            framework: Arc::new(framework),
            model,
        }
    }

    async fn fill(&self, deposits: Vec<Deposit>) {
        let repository = self.repository();
        for deposits in deposits.chunks(1_000) {
            let events: Vec<_> = deposits.iter().map(stored).collect();
            repository
                .persist::<Account>(&events, None)
                .await
                .expect("store events");
        }
    }

    async fn catch_up(&self, _: usize) {
        QueryReplay::new(self.repository(), self.model.clone())
            .replay_all()
            .await
            .expect("handle the events");
    }

    async fn append(&self, deposit: Deposit) -> anyhow::Result<()> {
        let account = deposit.account.clone();
        self.framework.execute(&account, deposit).await?;
        Ok(())
    }

    async fn follow(&self) -> Following {
        Following::until(|stopped| async {
            // The appending task runs the handlers.
            let _ = stopped.await;
        })
    }
}

/// The stored form of an event.
fn stored(deposit: &Deposit) -> SerializedEvent {
    let event = AccountEvent::from(deposit.clone());
    SerializedEvent::new(
        deposit.account.clone(),
        usize::from(deposit.version),
        Account::TYPE.to_owned(),
        event.event_type(),
        event.event_version(),
        serde_json::to_value(event).expect("a payload"),
        json!({}),
    )
}

impl From<Deposit> for AccountEvent {
    fn from(deposit: Deposit) -> Self {
        Self::Deposited {
            number: deposit.number,
            amount: deposit.amount,
            text: deposit.text,
        }
    }
}
