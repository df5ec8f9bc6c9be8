//! evento's next version, set up as in its README.

use evento::Executor as _;
use evento::migrator::{Migrate as _, Plan};
use evento::subscription::{Context, SubscriptionBuilder};
use evento::{Aggregate as _, AggregateEvent as _};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::deposits::{Deposit, Statement};
use crate::peer::{Following, Peer};

#[evento::aggregate]
enum Account {
    Deposited {
        number: i64,
        amount: i64,
        text: String,
    },
}

/// The handler's data.
#[derive(Clone)]
struct ReadModel {
    pool: PgPool,
    statement: Statement,
}

#[evento::subscription]
async fn on_deposited<E: evento::Executor>(
    context: &Context<'_, E>,
    event: evento::metadata::Event<Deposited>,
) -> anyhow::Result<()> {
    let model: ReadModel = context.extract();
    sqlx::query(model.statement)
        .bind(&event.aggregate_id)
        .bind(event.data.amount)
        .bind(event.data.number)
        .execute(&model.pool)
        .await?;
    Ok(())
}

#[derive(Clone)]
pub(crate) struct Evento {
    executor: evento::Postgres,
    model: ReadModel,
}

impl Evento {
    fn subscription(&self) -> SubscriptionBuilder<evento::Postgres> {
        SubscriptionBuilder::new("balances")
            .data(self.model.clone())
            .handler(on_deposited())
    }
}

impl Peer for Evento {
    const PACKAGE: (&'static str, &'static str) = ("evento", "2.0.0-alpha.38");

    const NOTES: &'static [&'static str] = &[
        "The next version, an alpha. A subscription reads 300 events and saves its cursor once for them; \
         the handler writes in a separate transaction.",
        "Events are ordered by the time at which the append's transaction began, and are handled once \
         they are a second old. Its documentation asks for a margin longer than any append takes, which \
         delays every event by as much.",
    ];

    const EVENTS: &'static str = "event";

    const FORGET: &'static str = "DELETE FROM subscriber";

    async fn open(url: &str, statement: Statement) -> Self {
        let pool = PgPoolOptions::new().max_connections(20);
        let pool = pool.connect(url).await.expect("connect");
        let mut connection = pool.acquire().await.expect("a connection");
        evento::sql_migrator::new::<sqlx::Postgres>()
            .expect("its migrations")
            .run(&mut *connection, &Plan::apply_all())
            .await
            .expect("make its tables");
        let executor = pool.clone().into();
        let model = ReadModel { pool, statement };
        Self { executor, model }
    }

    async fn fill(&self, deposits: Vec<Deposit>) {
        for deposits in deposits.chunks(1_000) {
            let events = deposits.iter().map(stored).collect();
            self.executor.replicate(events).await.expect("store events");
        }
    }

    async fn catch_up(&self, _: usize) {
        self.subscription()
            .run_once(&self.executor)
            .await
            .expect("handle the events");
    }

    async fn append(&self, deposit: Deposit) -> anyhow::Result<()> {
        evento::append(&deposit.account)
            .original_version(deposit.version - 1)
            .event(&Deposited::from(deposit))
            .commit(&self.executor)
            .await?;
        Ok(())
    }

    async fn follow(&self) -> Following {
        let subscription = self.subscription().start(&self.executor).await;
        let subscription = subscription.expect("subscribe");
        Following::until(|stopped| async move {
            tokio::select! {
                _ = stopped => {}
                reason = subscription.stopped() => panic!("evento stopped: {reason}"),
            }
            subscription.shutdown().await.expect("shut down");
        })
    }
}

/// The stored form of an event, dated in the past and one millisecond after the previous one.
fn stored(deposit: &Deposit) -> evento::Event {
    let number = deposit.number.unsigned_abs();
    let milliseconds = 1_700_000_000_000 + number;
    evento::Event {
        id: u128::from(number).into(),
        aggregate_id: deposit.account.clone(),
        aggregate_type: Deposited::aggregate_type().to_owned(),
        version: deposit.version,
        name: Deposited::event_name().to_owned(),
        data: bitcode::encode(&Deposited::from(deposit.clone())),
        timestamp: milliseconds / 1_000,
        timestamp_subsec: (milliseconds % 1_000) as u32,
        ..evento::Event::default()
    }
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
