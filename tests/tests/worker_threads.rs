//! Where handlers run: what they start outlives the worker, and what they block does not keep it.

use std::future::Future;
use std::sync::{Arc, Mutex, mpsc as blocking};
use std::time::Duration;

use consumer::{Context, WorkerBuilder};
use consumer_tests::{
    Database, Running, TestConsumer, TestDatabase, consumer, keep_log, logged, patiently,
    read_model, run_once, test_on,
};
use sqlx::{Postgres, Sqlite, SqliteConnection};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, OnceCell, mpsc, oneshot};

test_on!(
    [sqlite, postgres],
    a_client_made_in_a_handler_outlives_its_worker,
    a_task_spawned_after_a_commit_outlives_its_worker,
);

test_on!(
    [sqlite],
    a_connection_opened_in_a_handler_outlives_its_worker
);

/// A client whose connection is a task, as that of most brokers.
#[derive(Clone)]
struct Client(mpsc::Sender<oneshot::Sender<()>>);

impl Client {
    async fn connect() -> Self {
        let (requests, mut received) = mpsc::channel::<oneshot::Sender<()>>(8);
        tokio::spawn(async move {
            while let Some(answer) = received.recv().await {
                let _ = answer.send(());
            }
        });
        Self(requests)
    }

    async fn publish(&self) -> Result<(), &'static str> {
        let (answer, answered) = oneshot::channel();
        let sent = self.0.send(answer).await;
        sent.map_err(|_| "the connection is gone")?;
        answered.await.map_err(|_| "the connection is gone")
    }
}

/// A worker whose only consumer publishes each event and writes it.
fn publisher<DB: TestDatabase>(
    db: &Database<DB>,
    client: &Arc<OnceCell<Client>>,
) -> WorkerBuilder<DB> {
    let client = Arc::clone(client);
    let c = consumer("c", move |_, tx, event| {
        let client = Arc::clone(&client);
        Box::pin(async move {
            client.get_or_init(Client::connect).await.publish().await?;
            Ok(DB::apply(tx, "c", event).await?)
        })
    });
    db.worker().lanes_on_one_core(true).consumer(c)
}

async fn a_client_made_in_a_handler_outlives_its_worker<DB: TestDatabase>(db: Database<DB>) {
    let client = Arc::default();
    for id in ["a", "b"] {
        db.append("User", [id]).await;
        let report = run_once(publisher(&db, &client)).await;
        assert!(!report.has_failures(), "{report}");
    }
    assert_eq!(db.applied("c").await, db.log().await);
    let client = client.get().expect("the client of the handlers");
    assert_eq!(client.publish().await, Ok(()));
}

#[test]
fn a_client_made_in_a_handler_outlives_the_workers_runtime() {
    let client = Arc::default();
    let db = one_thread().block_on(Database::<Sqlite>::fresh());
    for id in ["a", "b"] {
        // As in a test binary, where each test has its own.
        one_thread().block_on(async {
            db.append("User", [id]).await;
            let report = run_once(publisher(&db, &client)).await;
            assert!(!report.has_failures(), "{report}");
        });
    }
}

async fn a_task_spawned_after_a_commit_outlives_its_worker<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let (go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, tell) = (Arc::clone(&go), Arc::clone(&done));
    let c = consumer("c", move |cx: &Context, _: &mut DB::Connection, _| {
        let (wait, tell) = (Arc::clone(&wait), Arc::clone(&tell));
        cx.after_commit(async move {
            tokio::spawn(async move {
                wait.notified().await;
                tell.notify_one();
            });
        });
        Box::pin(async { Ok(()) })
    });
    run_once(db.worker().lanes_on_one_core(true).consumer(c)).await;
    go.notify_one();
    patiently("the task ends", done.notified()).await;
}

async fn a_connection_opened_in_a_handler_outlives_its_worker(db: Database<Sqlite>) {
    let other = Database::<Postgres>::fresh().await;
    let options = sqlx::postgres::PgPoolOptions::new().max_connections(1);
    let pool = options.connect_lazy(&other.url).expect("a pool");
    let used = pool.clone();
    db.append("User", ["a"]).await;
    let c = consumer("c", move |_, _: &mut SqliteConnection, _| {
        let used = used.clone();
        Box::pin(async move {
            sqlx::query("SELECT 1").execute(&used).await?;
            Ok(())
        })
    });
    run_once(db.worker().consumer(c)).await;
    assert_eq!(pool.size(), 1);
    let again = sqlx::query("SELECT 1").execute(&pool);
    patiently("it answers", again).await.expect("an answer");
}

fn one_thread() -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

/// A consumer that blocks its thread in each event until `release` is dropped or sent to.
struct Blocking {
    entered: blocking::Receiver<()>,
    release: blocking::Sender<()>,
}

impl Blocking {
    fn consumer<DB: TestDatabase>(name: &'static str) -> (Self, TestConsumer<DB>) {
        let (enter, entered) = blocking::channel();
        let (release, released) = blocking::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let c = consumer(name, move |_, tx, event| {
            let (enter, released) = (enter.clone(), Arc::clone(&released));
            Box::pin(async move {
                DB::apply(tx, name, event).await?;
                enter.send(())?;
                let _ = released.lock().expect("no panic in between").recv();
                Ok(())
            })
        });
        (Self { entered, release }, c)
    }
}

/// Resolves once a thread has seen the handler block.
fn when_blocked(entered: blocking::Receiver<()>) -> impl Future<Output = ()> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = entered.recv();
        let _ = tell.send(());
    });
    async move { drop(told.await) }
}

fn a_blocked_thread_does_not_keep_a_worker<DB: TestDatabase>() {
    keep_log();
    let runtime = one_thread();
    let db = runtime.block_on(async {
        let db = Database::<DB>::fresh().await;
        db.append("User", ["a", "b"]).await;
        db
    });
    let (Blocking { entered, release }, c) = Blocking::consumer::<DB>("blocking");
    let builder = db.worker().shutdown_deadline(Duration::from_millis(50));
    let worker = builder.consumer(c).build().expect("a worker");
    // On this thread, so that the runtime's only one can be blocked.
    let ended = runtime.block_on(worker.run(when_blocked(entered)));
    ended.expect("a report");
    assert!(!logged(&["blocks its thread", "\"blocking\"", "position=1"]).is_empty());
    drop(release);
    runtime.block_on(async {
        run_once(db.worker().consumer(read_model("blocking"))).await;
        assert_eq!(db.applied("blocking").await, db.log().await);
    });
}

#[test]
fn a_blocked_thread_does_not_keep_a_worker_on_sqlite() {
    a_blocked_thread_does_not_keep_a_worker::<Sqlite>();
}

#[test]
fn a_blocked_thread_does_not_keep_a_worker_on_postgres() {
    a_blocked_thread_does_not_keep_a_worker::<Postgres>();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_thread_does_not_keep_the_lanes_of_other_workers() {
    let (one, other) = (
        Database::<Sqlite>::fresh().await,
        Database::<Sqlite>::fresh().await,
    );
    one.append("User", ["a"]).await;
    other.append("User", ["a"]).await;
    let (Blocking { entered, release }, c) = Blocking::consumer::<Sqlite>("c");
    let running = Running::start(one.worker().consumer(c));
    when_blocked(entered).await;
    run_once(other.worker().consumer(read_model("c"))).await;
    assert_eq!(other.applied("c").await, other.log().await);
    drop(release);
    running.stop().await;
}

#[test]
fn a_worker_ends_with_the_runtime_that_it_was_started_on() {
    let db = one_thread().block_on(async {
        let db = Database::<Sqlite>::fresh().await;
        db.append("User", ["a"]).await;
        db
    });
    let entered = Arc::new(Notify::new());
    let tell = Arc::clone(&entered);
    let c = consumer("c", move |_, tx: &mut SqliteConnection, event| {
        let tell = Arc::clone(&tell);
        Box::pin(async move {
            Sqlite::apply(tx, "c", event).await?;
            tell.notify_one();
            std::future::pending().await
        })
    });
    let runtime = one_thread();
    let worker = db.worker().consumer(c).build().expect("a worker");
    runtime.spawn(worker.run(std::future::pending()));
    runtime.block_on(patiently("the handler is called", entered.notified()));
    drop(runtime);
    one_thread().block_on(async {
        run_once(db.worker().consumer(read_model("c"))).await;
        assert_eq!(db.applied("c").await, db.log().await);
    });
}
