//! Appends the events of another service, which its `nats_publisher` publishes, to the log of this one,
//! and runs a consumer on them.
//!
//! `DATABASE_URL=postgres://… NATS_URL=nats://localhost:4222 cargo run -p consumer-examples
//! --features services --bin importer`. With `-- --once`, it imports the messages that are there and
//! ends. `DATABASE_URL` may also name a SQLite database; the default is `sqlite:billing.db`.
//!
//! Each event is in the log exactly once and in the order of its aggregate, however often the importer
//! is killed, and in whatever order the messages arrive, as long as no message is lost or dropped from
//! the stream before it is imported, and only the importer appends to these aggregates:
//!
//! - A message is acknowledged after the transaction that stores its event has committed. One that comes
//!   again is known by the event's id, and only acknowledged.
//! - An event whose predecessors have not arrived is not stored: its message is returned to the stream,
//!   which delivers it again later. Redelivery does not keep an order.
//! - A message that is not an event, or whose event the log refuses, ends the program with an error
//!   that names it, and is not acknowledged. Those before it are stored.
//! - While the database is away, messages are returned to the stream, which delivers them again later.

#[allow(dead_code)] // Each program uses one direction.
#[path = "nats/stream.rs"]
mod stream;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream::consumer::pull::{Batch, Config};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{AckKind, Message};
use consumer::prelude::*;
use consumer::{Backend, EventStore, StoreError, sqlx};
use futures_util::{FutureExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::stream::Foreign;

/// The durable consumer of this service: the stream remembers what it has acknowledged.
const DURABLE: &str = "billing";

/// The most messages of one transaction.
const BATCH: usize = 200;

/// How many messages may be on their way. More than a publisher sends at once (500), since an event can
/// be on the stream that far behind later ones of its aggregate, and must be delivered all the same.
const MAX_ACK_PENDING: i64 = 2_000;

/// How long an empty stream is waited for, and so how long a shutdown takes.
const WAIT: Duration = Duration::from_secs(1);

/// What this service knows of the other one's orders.
#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
enum OrderEvent {
    Placed { amount: i64 },
    Refunded { amount: i64 },
}

impl OrderEvent {
    /// What the customer has to pay more.
    fn charge(self) -> i64 {
        match self {
            Self::Placed { amount } => amount,
            Self::Refunded { amount } => -amount,
        }
    }
}

/// A row of each order. A sum shows what an ordinary consumer of the imported events gets: each of them
/// exactly once.
#[derive(ReadModel)]
#[read_model(table = "order_totals")]
struct OrderTotal {
    #[read_model(key)]
    id: String,
    events: i64,
    amount: i64,
}

#[derive(Default)]
struct OrderTotals;

#[consumer(name = "order_totals", aggregates = [OrderEvent], read_model = OrderTotal)]
impl OrderTotals {
    #[on]
    fn changed(total: &mut Option<OrderTotal>, event: Envelope<'_, OrderEvent>) {
        let (events, amount) = total
            .as_ref()
            .map_or((0, 0), |row| (row.events, row.amount));
        *total = Some(OrderTotal {
            id: event.aggregate_id.clone(),
            events: events + 1,
            amount: amount + event.payload.charge(),
        });
    }
}

/// A message, and the event in it.
struct Received {
    message: Message,
    /// The place of the message in the stream.
    sequence: u64,
    foreign: Foreign,
}

impl Received {
    /// The event's id, and its version in the other log.
    fn version(&self) -> (Uuid, i64) {
        (self.foreign.event.event_id, self.foreign.version)
    }

    fn aggregate(&self) -> (&str, &str) {
        let event = &self.foreign.event;
        (&event.aggregate_type, &event.aggregate_id)
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, id) = self.aggregate();
        let (sequence, version) = (self.sequence, self.foreign.version);
        write!(
            f,
            "message {sequence} of the stream, version {version} of {kind} {id},"
        )
    }
}

/// What became of events that the log does not refuse.
enum Answer {
    /// They are stored, or wait for those before them.
    Stored,
    /// The database was away, and some are not stored.
    Away,
}

/// Whether an error is about the database at this moment, and not about an event.
fn can_pass(error: &StoreError) -> bool {
    let StoreError::Database(error) = error else {
        return error.is_retryable() || matches!(error, StoreError::ReadOnly(_));
    };
    match &**error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut => true,
        // Connections, concurrent transactions, resources and shutdowns; or a locked SQLite file.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            let classes = ["08", "40", "53", "57"];
            code == "5" || code.len() == 5 && classes.iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

struct Importer<DB: Backend> {
    store: EventStore<DB>,
    messages: PullConsumer,
    /// How long a message stays away that is returned to the stream.
    pause: Duration,
}

impl<DB: Backend> Importer<DB> {
    async fn new(store: EventStore<DB>, stream: &Stream) -> anyhow::Result<Self> {
        let ack_wait = Duration::from_millis(stream::setting("ACK_WAIT_MS", 30_000)?);
        let config = Config {
            durable_name: Some(DURABLE.to_owned()),
            ack_policy: AckPolicy::Explicit,
            // Longer than a transaction takes. Messages of a process that was killed come again after it.
            ack_wait,
            max_ack_pending: MAX_ACK_PENDING,
            ..Default::default()
        };
        let create = || stream.get_or_create_consumer(DURABLE, config.clone());
        let messages = stream::patiently("the consumer of the stream", create).await?;
        Ok(Self {
            store,
            messages,
            pause: ack_wait / 4,
        })
    }

    /// Imports until it is told to stop, or, with `once`, until every message is acknowledged.
    async fn run(&self, stop: impl Future<Output = ()>, once: bool) -> anyhow::Result<()> {
        let mut stop = pin!(stop);
        // Between two batches, so that none is left half-way.
        while stop.as_mut().now_or_never().is_none() {
            match self.next_batch().await {
                Ok(batch) if !batch.is_empty() => self.import(batch).await?,
                Ok(_) if once && self.has_imported_all().await => break,
                Ok(_) => {}
                Err(error) => {
                    eprintln!("no messages, trying again: {error}");
                    tokio::time::sleep(self.pause.min(WAIT)).await;
                }
            }
        }
        Ok(())
    }

    /// The messages that are there, or the next one.
    async fn next_batch(&self) -> Result<Vec<Message>, async_nats::Error> {
        let there = collect(self.messages.fetch().max_messages(BATCH).messages().await?).await?;
        if !there.is_empty() {
            return Ok(there);
        }
        let next = self.messages.batch().max_messages(1).expires(WAIT);
        collect(next.messages().await?).await
    }

    async fn has_imported_all(&self) -> bool {
        let info = self.messages.get_info().await;
        info.is_ok_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
    }

    /// Stores the events of messages, and then acknowledges the messages.
    async fn import(&self, mut messages: Vec<Message>) -> anyhow::Result<()> {
        messages.sort_by_key(sequence);
        let mut batch = Vec::with_capacity(messages.len());
        let mut undecodable = Ok(());
        for message in messages {
            match stream::event(&message) {
                Ok(foreign) => batch.push(Received {
                    sequence: sequence(&message),
                    foreign,
                    message,
                }),
                Err(error) => {
                    undecodable = Err(error.context(format!(
                        "message {} of the stream ({}) is no event: update this program, or remove the \
                         message with `nats stream rmm`",
                        sequence(&message),
                        message.subject
                    )));
                    break;
                }
            }
        }
        match self.import_events(&batch).await? {
            Answer::Stored => undecodable,
            // It comes again, after those before it.
            Answer::Away => Ok(()),
        }
    }

    async fn import_events(&self, batch: &[Received]) -> anyhow::Result<Answer> {
        match self.store_all(batch).await {
            Ok(true) => {
                acknowledge(batch).await?;
                return Ok(Answer::Stored);
            }
            Err(error) if can_pass(&error) => return self.wait_for_database(batch, error).await,
            Ok(false) | Err(_) => {}
        }
        // One of them is early, or refused: each for itself.
        let mut stored = Vec::new();
        let mut waiting = HashSet::new();
        let mut outcome = Ok(Answer::Stored);
        let mut left = batch.iter();
        while let Some(one) = left.next() {
            if waiting.contains(&one.aggregate()) {
                self.return_to_stream(one).await?;
                continue;
            }
            match self.store_all(std::slice::from_ref(one)).await {
                Ok(true) => stored.push(one),
                Ok(false) => {
                    waiting.insert(one.aggregate());
                    eprintln!("{one} waits for the versions before it");
                    self.return_to_stream(one).await?;
                }
                Err(error) if can_pass(&error) => {
                    let rest = std::iter::once(one).chain(left);
                    outcome = self.wait_for_database(rest, error).await;
                    break;
                }
                Err(error) => {
                    outcome = Err(error).with_context(|| format!("{one} cannot be stored"));
                    break;
                }
            }
        }
        acknowledge(stored).await?;
        outcome
    }

    /// Returns messages to the stream that the database is not there for, and leaves it some time.
    async fn wait_for_database(
        &self,
        batch: impl IntoIterator<Item = &Received>,
        error: StoreError,
    ) -> anyhow::Result<Answer> {
        let error = anyhow::Error::from(error);
        eprintln!("the database cannot be used, trying again: {error:#}");
        for one in batch {
            self.return_to_stream(one).await?;
        }
        tokio::time::sleep(self.pause.min(WAIT)).await;
        Ok(Answer::Away)
    }

    /// Stores events in one transaction, unless one of them is not the next of its aggregate.
    async fn store_all(&self, batch: &[Received]) -> Result<bool, StoreError> {
        if batch.is_empty() {
            return Ok(true);
        }
        let events: Vec<NewEvent> = batch.iter().map(|one| one.foreign.event.clone()).collect();
        let versions: HashMap<Uuid, i64> = batch.iter().map(Received::version).collect();

        let mut tx = self.store.begin().await?;
        let once = self.store.append_once_in(&mut tx, &events).await?;
        let in_order = once
            .appended
            .iter()
            .all(|stored| versions.get(&stored.event_id) == Some(&stored.aggregate_version));
        if in_order {
            tx.commit().await?;
            note_repeats(&once.existing);
        } else {
            tx.rollback().await?;
        }
        Ok(in_order)
    }

    /// Has a message delivered again later, when the events before it have arrived.
    async fn return_to_stream(&self, one: &Received) -> anyhow::Result<()> {
        let returned = one.message.ack_with(AckKind::Nak(Some(self.pause))).await;
        returned.map_err(anyhow::Error::from_boxed)
    }
}

/// The messages of an answer of the server, which may be lost before its end.
async fn collect(mut answer: Batch) -> Result<Vec<Message>, async_nats::Error> {
    let mut messages = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(2 * WAIT, answer.next()).await {
        match message {
            Ok(message) => messages.push(message),
            Err(error) if messages.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(messages)
}

/// Tells that messages came again after their events had been stored.
fn note_repeats(existing: &[PersistedEvent]) {
    if !existing.is_empty() {
        eprintln!("{} events were stored already", existing.len());
    }
}

/// The place of a message in the stream.
fn sequence(message: &Message) -> u64 {
    message.info().map_or(0, |info| info.stream_sequence)
}

/// Acknowledges the messages of stored events. An acknowledgement that is lost costs a repeat, which is
/// acknowledged again.
async fn acknowledge(batch: impl IntoIterator<Item = &Received>) -> anyhow::Result<()> {
    let mut batch = batch.into_iter().peekable();
    while let Some(one) = batch.next() {
        if batch.peek().is_some() {
            one.message.ack().await.map_err(anyhow::Error::from_boxed)?;
        } else if let Err(error) = one.message.double_ack().await {
            // The server answers the last one, so that none is on its way when the program ends.
            eprintln!("acknowledgements may be lost: {error}");
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (_, stream) = stream::connect().await?;
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:billing.db".to_owned());
    if url.starts_with("sqlite") {
        import(SqliteEventStore::connect(&url).await?, &stream).await
    } else {
        import(PgEventStore::connect(&url).await?, &stream).await
    }
}

/// Imports beside a worker with the ordinary consumers of this service.
async fn import<DB: Backend>(store: EventStore<DB>, stream: &Stream) -> anyhow::Result<()> {
    store.migrate().await?;
    let import = Importer::new(store.clone(), stream).await?;
    let worker = Worker::builder(store).discover().build()?;
    let handle = worker.handle();
    let mut running = tokio::spawn(worker.run(std::future::pending()));

    let once = std::env::args().any(|argument| argument == "--once");
    let outcome = tokio::select! {
        outcome = import.run(shutdown_signal(), once) => outcome,
        ended = &mut running => bail!("the worker has ended: {}", ended??),
    };
    if once {
        handle.caught_up().await?;
    }
    handle.shut_down();
    let report = running.await??;
    outcome?;
    print!("{report}");
    ensure!(
        !report.has_failures(),
        "a consumer did not handle everything"
    );
    Ok(())
}
