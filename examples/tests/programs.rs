//! The example programs, run as a user would run them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use async_nats::jetstream;
use consumer::{ExpectedVersion, NewEvent, SqliteEventStore};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn database(directory: &Path) -> String {
    format!("sqlite:{}", directory.join("app.db").display())
}

fn web(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_web"))
        .args(arguments)
        .env("DATABASE_URL", database(directory))
        .output()
        .unwrap()
}

fn serve(directory: &Path) -> (Running, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_web"))
        .args(["serve", "127.0.0.1:0"])
        .env("DATABASE_URL", database(directory))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let url = line
        .trim()
        .strip_prefix("listening on ")
        .unwrap()
        .to_owned();
    (Running(child), url)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_registers_with_the_web_application_can_read_it_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (_running, url) = serve(directory.path());
    let client = reqwest::Client::new();
    for id in 0..20 {
        let user = json!({"id": format!("u{id}"), "email": format!("{id}@example.com")});
        let answer = client
            .post(format!("{url}/users"))
            .json(&user)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        let read = client
            .get(format!("{url}/users/u{id}"))
            .send()
            .await
            .unwrap();
        assert_eq!(read.json::<Value>().await.unwrap(), user);
    }
    let again = json!({"id": "u0", "email": "other@example.com"});
    let answer = client
        .post(format!("{url}/users"))
        .json(&again)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    for probe in ["livez", "readyz"] {
        let answer = client.get(format!("{url}/{probe}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.text().await.unwrap(), "all is well");
    }
    let metrics = client.get(format!("{url}/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics.contains(r#"consumer_events_total{consumer="web.users",version="1"} 20"#),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_tools_are_in_the_same_binary() {
    let directory = tempfile::tempdir().unwrap();
    assert!(web(directory.path(), &["seed", "30"]).status.success());
    let status = |arguments: &[&str]| {
        let output = web(directory.path(), arguments);
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, text) = status(&["consumers", "status"]);
    assert_eq!(code, 0);
    assert!(text.contains("web.users  new           -   30"), "{text}");
    assert!(
        !text.contains('\u{1b}'),
        "no colour where there is no terminal: {text:?}"
    );
    let (code, text) = status(&["consumers", "run", "--once"]);
    assert_eq!(
        (code, text.as_str()),
        (0, "web.users: caught up at 30, 30 events handled\n")
    );
    let (code, _) = status(&["consumers", "rebuild", "web.users"]);
    assert_eq!(code, 4, "nobody is there to confirm");
    let (code, text) = status(&["consumers", "rebuild", "web.users", "--yes"]);
    assert_eq!(code, 0);
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["handled"], &last["done"]),
        (&json!(30), &json!(true))
    );
    let (code, _) = status(&["consumers", "stauts"]);
    assert_eq!(code, 2);
    let (code, text) = status(&["consumers", "completions", "bash"]);
    assert!(code == 0 && text.contains("rebuild"));
}

/// A receiver of notifications that keeps what it was sent.
async fn hook() -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = String::new();
            let mut buffer = [0; 4096];
            while !request.ends_with('}') {
                let read = stream.read(&mut buffer).await.unwrap();
                request.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            sender.send(request).unwrap();
        }
    });
    (url, receiver)
}

async fn register(store: &SqliteEventStore, id: &str) {
    let event = NewEvent::new("User", id, "UserRegistered", "{}");
    store
        .append_in_transaction(ExpectedVersion::NoStream, &[event])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_begin_now_and_carry_a_key_against_repetition() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::connect(&database(directory.path()))
        .await
        .unwrap();
    store.migrate().await.unwrap();
    register(&store, "before").await;
    let (url, mut received) = hook().await;
    let child = Command::new(env!("CARGO_BIN_EXE_notifications"))
        .env("DATABASE_URL", database(directory.path()))
        .env("HOOK_URL", url)
        .spawn()
        .unwrap();
    let _running = Running(child);
    let has_checkpoint = || async {
        let count: i64 = consumer::sqlx::query_scalar("SELECT count(*) FROM consumer_progress")
            .fetch_one(store.pool())
            .await
            .unwrap();
        count > 0
    };
    while !has_checkpoint().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    register(&store, "after").await;
    let request = received.recv().await.unwrap();
    assert!(
        request.contains(r#""user":"after""#) && request.contains("idempotency-key: "),
        "{request}"
    );
}

fn nats_server(directory: &Path) -> (Running, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let child = Command::new("nats-server")
        .args(["-a", "127.0.0.1", "-js", "-p", &port.to_string(), "-sd"])
        .arg(directory.join("jetstream"))
        .stderr(Stdio::null())
        .spawn()
        .expect("`nats-server` is needed: apt-get install nats-server");
    (Running(child), format!("nats://127.0.0.1:{port}"))
}

fn publisher(directory: &Path, nats: &str, arguments: &[&str]) -> Running {
    let child = Command::new(env!("CARGO_BIN_EXE_nats_publisher"))
        .args(arguments)
        .env("DATABASE_URL", database(directory))
        .env("NATS_URL", nats)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Running(child)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_killed_20_times_leaves_every_event_on_the_stream_once() {
    const EVENTS: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::connect(&database(directory.path()))
        .await
        .unwrap();
    store.migrate().await.unwrap();
    for batch in 0..EVENTS / 1_000 {
        let events: Vec<_> = (0..1_000)
            .map(|_| NewEvent::new("Order", format!("o{batch}"), "Placed", "{}"))
            .collect();
        store
            .append_in_transaction(ExpectedVersion::Any, &events)
            .await
            .unwrap();
    }
    let (_server, url) = nats_server(directory.path());
    let client = loop {
        if let Ok(client) = async_nats::connect(&url).await {
            break client;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let stream = jetstream::new(client);
    let count = async || match stream.get_stream("integration").await {
        Ok(mut found) => found.info().await.unwrap().state.messages,
        Err(_) => 0,
    };
    for kill in 1..=20_u64 {
        let mut killed = publisher(directory.path(), &url, &[]);
        // Somewhere after it has begun to publish, and long before it is done.
        let seen = count().await;
        let some = u64::from(uuid::Uuid::new_v4().as_bytes()[0]) % 400;
        while count().await <= (seen + some).min(kill * 900) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        killed.kill();
    }
    assert!(count().await < EVENTS as u64, "it was killed at work");
    let mut last = publisher(directory.path(), &url, &["--once"]);
    assert!(last.0.wait().unwrap().success());
    assert_eq!(count().await, EVENTS as u64);
}
