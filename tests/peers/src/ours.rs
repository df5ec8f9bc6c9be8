//! This library, with its default settings.

use consumer::prelude::*;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::deposits::{BALANCE, Deposit, HANDLED, Statement};
use crate::peer::{Following, Peer};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Account")]
struct Deposited {
    number: i64,
    amount: i64,
    text: String,
}

struct Balances;

#[consumer(name = "balances", aggregates = ["Account"])]
impl Balances {
    #[on]
    async fn deposited(
        &self,
        tx: &mut PgConnection,
        event: Envelope<'_, Deposited>,
    ) -> sqlx::Result<()> {
        run(BALANCE, tx, &event).await
    }
}

struct Handled;

#[consumer(name = "handled", aggregates = ["Account"])]
impl Handled {
    #[on]
    async fn deposited(
        &self,
        tx: &mut PgConnection,
        event: Envelope<'_, Deposited>,
    ) -> sqlx::Result<()> {
        run(HANDLED, tx, &event).await
    }
}

async fn run(
    statement: Statement,
    tx: &mut PgConnection,
    event: &Envelope<'_, Deposited>,
) -> sqlx::Result<()> {
    sqlx::query(statement)
        .bind(&event.aggregate_id)
        .bind(event.payload.amount)
        .bind(event.payload.number)
        .execute(tx)
        .await?;
    Ok(())
}

#[derive(Clone)]
pub(crate) struct Ours {
    store: PgEventStore,
}

impl Ours {
    fn pool(&self) -> &PgPool {
        self.store.pool()
    }
}

impl Peer for Ours {
    const PACKAGE: (&'static str, &'static str) = ("consumer", "0.1.0");

    const NOTES: &'static [&'static str] = &[
        "The handler writes in the transaction that saves the checkpoint, with up to 500 events each.",
    ];

    const EVENTS: &'static str = "events";

    const FORGET: &'static str = "DELETE FROM consumer_progress";

    async fn open(url: &str, _: Statement) -> Self {
        let store = PgEventStore::connect(url).await.expect("connect");
        store.migrate().await.expect("make the tables");
        Self { store }
    }

    async fn fill(&self, deposits: Vec<Deposit>) {
        const INSERT: &str = "
            INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
            SELECT 'Account', account, version, gen_random_uuid(), 'Deposited', payload
              FROM UNNEST($1::text[], $2::bigint[], $3::bytea[]) AS e (account, version, payload)";
        for deposits in deposits.chunks(1_000) {
            let column = |of: fn(&Deposit) -> i64| deposits.iter().map(of).collect::<Vec<_>>();
            let accounts: Vec<&str> = deposits.iter().map(|of| &*of.account).collect();
            let payloads: Vec<Vec<u8>> = deposits.iter().map(payload).collect();
            sqlx::query(INSERT)
                .bind(accounts)
                .bind(column(|deposit| i64::from(deposit.version)))
                .bind(payloads)
                .execute(self.pool())
                .await
                .expect("store events");
        }
    }

    async fn catch_up(&self, _: usize) {
        let worker = Worker::builder(self.store.clone()).consumer(Balances);
        let report = worker.build().expect("a worker").run_once().await;
        let report = report.expect("handle the events");
        assert!(!report.has_failures(), "{report}");
    }

    async fn append(&self, deposit: Deposit) -> anyhow::Result<()> {
        let account = deposit.account.clone();
        let event = NewEvent::typed(&Deposited::from(deposit))?.of(account);
        self.store.append(ExpectedVersion::Any, &[event]).await?;
        Ok(())
    }

    async fn follow(&self) -> Following {
        let worker = Worker::builder(self.store.clone()).consumer(Handled);
        let worker = worker.build().expect("a worker");
        Following::until(|stopped| async {
            let shutdown = async {
                let _ = stopped.await;
            };
            let report = worker.run(shutdown).await.expect("handle the events");
            assert!(!report.has_failures(), "{report}");
        })
    }
}

fn payload(deposit: &Deposit) -> Vec<u8> {
    serde_json::to_vec(&Deposited::from(deposit.clone())).expect("a payload")
}

impl From<Deposit> for Deposited {
    fn from(deposit: Deposit) -> Self {
        Self {
            number: deposit.number,
            amount: deposit.amount,
            text: deposit.text,
        }
    }
}
