//! Runs the example programs that serve and notify, as a user would.

mod process;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use consumer::{ExpectedVersion, NewEvent, SqliteEventStore};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use self::process::Process;

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

fn serve(directory: &Path) -> (Process, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_web"));
    command
        .args(["serve", "127.0.0.1:0"])
        .env("DATABASE_URL", database(directory))
        .stdout(Stdio::piped());
    let mut process = Process::start(&mut command);
    let mut line = String::new();
    let mut output = BufReader::new(process.0.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let url = line
        .trim()
        .strip_prefix("listening on ")
        .unwrap()
        .to_owned();
    (process, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_the_web_application_reads_their_own_write() {
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
    let overview = client.get(format!("{url}/ops")).send().await.unwrap();
    let overview = overview.text().await.unwrap();
    assert!(
        overview.contains("href=\"/ops/consumers/web.users/1\""),
        "{overview}"
    );
    let metrics = client.get(format!("{url}/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics
            .contains(r#"consumer_events_total{log="events",consumer="web.users",version="1"} 20"#),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_commands_are_in_the_same_binary() {
    let directory = tempfile::tempdir().unwrap();
    let printed = web(directory.path(), &["consumers", "migrate", "--print"]);
    assert!(printed.status.success());
    assert!(String::from_utf8_lossy(&printed.stdout).contains("CREATE TABLE"));
    let store = SqliteEventStore::connect(&database(directory.path()))
        .await
        .unwrap();
    assert!(store.check().await.is_err(), "`--print` creates nothing");
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
        "no colour without a terminal: {text:?}"
    );
    let (code, text) = status(&["consumers", "run", "--once"]);
    assert_eq!(
        (code, text.as_str()),
        (0, "web.users: caught up at 30, 30 events handled\n")
    );
    let (code, _) = status(&["consumers", "rebuild", "web.users"]);
    assert_eq!(code, 4, "there is no terminal to confirm on");
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
    assert!(code == 0 && text.contains("rebuild") && text.contains("seed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_binary_serves_the_dashboard_alone() {
    let directory = tempfile::tempdir().unwrap();
    assert!(web(directory.path(), &["seed", "3"]).status.success());
    assert!(
        web(directory.path(), &["consumers", "run", "--once"])
            .status
            .success()
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_web"));
    command
        .args(["consumers", "dashboard"])
        .env("DATABASE_URL", database(directory.path()))
        .stdout(Stdio::piped());
    let mut process = Process::start(&mut command);
    let mut url = String::new();
    let mut output = BufReader::new(process.0.stdout.take().unwrap());
    output.read_line(&mut url).unwrap();
    let page = reqwest::get(format!("{}/consumers/web.users/1", url.trim()));
    let page = page.await.unwrap().text().await.unwrap();
    assert!(
        page.contains("examples/src/bin/web/app.rs:") && page.contains("Read-only"),
        "{page}"
    );
    process.terminate();
}

/// A receiver of notifications, and the requests it has received.
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
        .append(ExpectedVersion::NoStream, &[event])
        .await
        .unwrap();
}

/// The example `notifications`, with a command.
fn notifications(directory: &Path, hook: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_notifications"));
    command
        .args(arguments)
        .env("DATABASE_URL", database(directory))
        .env("HOOK_URL", hook);
    command
}

fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_start_now_and_a_rebuild_repeats_none() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let store = SqliteEventStore::connect(&database(directory))
        .await
        .unwrap();
    store.migrate().await.unwrap();
    register(&store, "before").await;
    let (url, mut received) = hook().await;
    let running = Process::start(&mut notifications(directory, &url, &["run"]));
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
    running.terminate();

    let rebuild = ["rebuild", "welcome_notifier", "--without-reset", "--yes"];
    let text = succeed(notifications(directory, &url, &rebuild));
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["handled"], &last["done"]),
        (&json!(2), &json!(true)),
        "both events were handled again: {text}"
    );

    register(&store, "later").await;
    let text = succeed(notifications(directory, &url, &["run", "--once"]));
    assert!(
        text.starts_with("welcome_notifier: caught up at 3, 1 event"),
        "{text}"
    );
    let request = received.recv().await.unwrap();
    assert!(
        request.contains(r#""user":"later""#),
        "the rebuild posted nothing: {request}"
    );
    assert!(received.try_recv().is_err());
}

#[test]
fn the_web_application_ends_when_its_worker_does() {
    let directory = tempfile::tempdir().unwrap();
    assert!(web(directory.path(), &["seed", "3"]).status.success());
    assert!(
        web(directory.path(), &["consumers", "run", "--once"])
            .status
            .success()
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = SqliteEventStore::connect(&database(directory.path()))
            .await
            .unwrap();
        // As after an old backup was restored. The worker must refuse to run.
        consumer::sqlx::query("UPDATE consumer_progress SET position = 1000")
            .execute(store.pool())
            .await
            .unwrap();
    });
    let output = web(directory.path(), &["serve", "127.0.0.1:0"]);
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("the log was reset"), "{errors}");
}
