//! evento's stable version, set up as in its README.

use anyhow::Context as _;
use evento::migrator::{Migrate as _, Plan};
use evento::{AggregatorName, Context, EventDetails, Executor};
// Its macros refer to the crate as `evento`.
use evento_1 as evento;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use sqlx_0_8 as sqlx;

use crate::deposits::{Deposit, Statement};
use crate::peer::{Following, Peer};

#[derive(AggregatorName, bincode::Encode, bincode::Decode)]
struct Deposited {
    number: i64,
    amount: i64,
    text: String,
}

#[derive(Default, bincode::Encode, bincode::Decode, Clone, Debug)]
struct Account {
    balance: i64,
}

#[evento::aggregator]
impl Account {
    async fn deposited(&mut self, event: EventDetails<Deposited>) -> anyhow::Result<()> {
        self.balance += event.data.amount;
        Ok(())
    }
}

/// The handler's data.
#[derive(Clone)]
struct ReadModel {
    pool: PgPool,
    statement: Statement,
}

#[evento::handler(Account)]
async fn on_deposited<E: Executor>(
    context: &Context<'_, E>,
    event: EventDetails<Deposited>,
) -> anyhow::Result<()> {
    let model = context.extract::<ReadModel>();
    sqlx::query(model.statement)
        .bind(&event.aggregator_id)
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
    fn subscription(&self) -> evento::SubscribeBuilder<evento::Postgres> {
        evento::subscribe("balances")
            .data(self.model.clone())
            .handler(on_deposited())
    }
}

impl Peer for Evento {
    const PACKAGE: (&'static str, &'static str) = ("evento", "1.8.0");

    const NOTES: &'static [&'static str] = &[
        "The stable version. A subscription reads 300 events every 300 ms, so at most 1,000 a second \
         unless `chunk_size` is raised. It checks before each event whether it is still running and \
         saves its cursor after each; the handler writes in a separate transaction.",
        "A live subscription panics when an event with a later second arrives between its two queries. \
         The benchmark restarts it, and it handles that event again.",
        "Events are ordered by the writer's clock at the append, and nothing waits for open transactions.",
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
            self.executor.write(events).await.expect("store events");
        }
    }

    async fn catch_up(&self, _: usize) {
        self.subscription()
            .oneshot(&self.executor)
            .await
            .expect("handle the events");
    }

    async fn append(&self, deposit: Deposit) -> anyhow::Result<()> {
        let account = deposit.account.clone();
        evento::save::<Account>(account)
            .data(&Deposited::from(deposit))?
            .metadata(&true)?
            .commit(&self.executor)
            .await
            .context("append")?;
        Ok(())
    }

    async fn follow(&self) -> Following {
        let this = self.clone();
        Following::until(|mut stopped| async move {
            loop {
                let subscription = this.subscription().run(&this.executor).await;
                let subscription = subscription.expect("subscribe");
                tokio::select! {
                    _ = &mut stopped => return this.model.pool.close().await,
                    ended = subscription.wait() => {
                        println!("evento's subscription ended and is restarted: {ended:?}");
                    }
                }
            }
        })
    }
}

/// The stored form of an event, dated in the past and one millisecond after the previous one.
fn stored(deposit: &Deposit) -> evento::Event {
    let number = deposit.number.unsigned_abs();
    let milliseconds = 1_700_000_000_000 + number;
    let encode = bincode::config::standard();
    evento::Event {
        id: u128::from(number).into(),
        aggregator_id: deposit.account.clone(),
        aggregator_type: Account::name().to_owned(),
        version: i32::from(deposit.version),
        name: Deposited::name().to_owned(),
        data: bincode::encode_to_vec(Deposited::from(deposit.clone()), encode).expect("a payload"),
        metadata: bincode::encode_to_vec(true, encode).expect("metadata"),
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
