//! Who may do what through the dashboard: reading without rights, forms of other sites, forms sent twice.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser as _;
use consumer::admin::{ActivateOptions, ConsumerState, Target};
use consumer::cli::{Cli, Console, Exit};
use consumer::dashboard::{ActionKind, DashboardOptions, router};
use consumer::{OnError, Registered, Settings, Worker};
use consumer_tests::http::HttpRequest;
use consumer_tests::{Database, Model, Served, TestDatabase, patiently, run_once, signal, test_on};
use sqlx::Sqlite;

test_on!(
    [sqlite, postgres],
    without_authorisation_every_action_is_refused,
    a_form_of_another_origin_is_refused,
    a_form_without_its_token_is_refused,
    a_form_that_is_sent_again_is_refused,
    an_action_that_is_not_allowed_is_neither_shown_nor_done,
    the_program_is_told_who_asks_for_what,
    a_stopped_consumer_is_parked_retried_and_running,
    a_stopped_consumer_is_resumed_or_skips_its_event,
    a_parked_event_is_skipped,
    a_read_model_is_rebuilt,
    a_version_is_activated_and_the_old_one_forgotten,
    a_scope_is_accepted,
    an_action_that_the_library_refuses_says_why,
);

/// Every action, and what its form sends besides the token.
const ACTIONS: [(&str, &str); 10] = [
    ("pause", ""),
    ("resume", ""),
    ("park", "position=2"),
    ("skip", "position=2"),
    ("retry-parked", ""),
    ("skip-parked", "position=2"),
    ("rebuild", "accept=true"),
    ("activate", "accept=true"),
    ("accept-scope", ""),
    ("forget", "accept=true"),
];

/// Otherwise a new action would not be tried.
#[test]
fn the_list_of_actions_is_complete() {
    let options = include_str!("../../consumer/src/dashboard/options.rs");
    let kinds = syn::parse_file(options).unwrap().items.into_iter();
    let variants = kinds.filter_map(|item| match item {
        syn::Item::Enum(kinds) if kinds.ident == "ActionKind" => Some(kinds.variants),
        _ => None,
    });
    let is_tried = |kind: &syn::Variant| {
        let name = kind.ident.to_string();
        ACTIONS
            .iter()
            .any(|(action, _)| action.replace('-', "") == name.to_lowercase())
    };
    let kinds: Vec<syn::Variant> = variants.flatten().collect();
    assert_eq!(kinds.len(), ACTIONS.len());
    assert!(kinds.iter().all(is_tried), "an action is not tried");
}

/// A consumer that has stopped at the second of two events.
async fn stopped<DB: TestDatabase>(db: &Database<DB>) -> Model {
    let users = Model::new("users");
    users.fail_on("bad", true);
    db.append("User", ["good", "bad"]).await;
    run_once(users.worker(db)).await;
    users
}

async fn state<DB: TestDatabase>(db: &Database<DB>, users: &Model) -> ConsumerState {
    let status = users.worker(db).admin().unwrap().status().await.unwrap();
    status.consumer("users").unwrap().state.clone()
}

/// Everything that the library has stored besides events.
async fn rows<DB: TestDatabase>(db: &Database<DB>) -> Vec<String> {
    let progress = "SELECT consumer || version || position || state || epoch || attempts FROM consumer_progress ORDER BY 1";
    let parked = "SELECT consumer || position FROM consumer_parked ORDER BY 1";
    let active = "SELECT consumer || version FROM consumer_active ORDER BY 1";
    let mut rows = db.texts(progress).await;
    rows.extend(db.texts(parked).await);
    rows.extend(db.texts(active).await);
    rows
}

async fn without_authorisation_every_action_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let users = stopped(&db).await;
    let before = rows(&db).await;
    let served = Served::read_only(users.worker(&db)).await;
    for path in [
        "/",
        "/consumers/users/1",
        "/consumers/users/1/parked",
        "/events/2",
    ] {
        let page = served.page(path).await;
        assert!(!page.contains("method=\"post\""), "{path}: {page}");
    }
    for (action, form) in ACTIONS {
        let answer = served
            .post(&format!("/consumers/users/1/{action}"), form)
            .await;
        assert_eq!(answer.status, 403, "{action}: {}", answer.text());
        assert!(answer.text().contains("read-only"), "{}", answer.text());
    }
    assert_eq!(rows(&db).await, before);
}

const PAUSE: &str = "/consumers/users/1/pause";

/// A consumer that runs, its dashboard, and the form of an action.
async fn form<DB: TestDatabase>(db: &Database<DB>) -> (Model, Served, String) {
    let users = Model::new("users");
    db.append("User", ["ada"]).await;
    run_once(users.worker(db)).await;
    let served = Served::operable(users.worker(db)).await;
    let token = served.token("/consumers/users/1").await;
    (users, served, format!("token={token}"))
}

async fn a_form_of_another_origin_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let (users, served, form) = form(&db).await;
    let own = format!("http://{}", served.address);
    for headers in [
        &[][..],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "http://127.0.0.1")],
        &[("origin", &*own), ("sec-fetch-site", "cross-site")],
        &[("origin", &*own), ("sec-fetch-site", "same-site")],
        &[("origin", &*own), ("sec-fetch-site", "none")],
    ] {
        let mut request = HttpRequest::post(served.address, PAUSE, &form);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.send().await;
        assert_eq!(answer.status, 403, "{headers:?}");
        assert!(answer.text().contains("not sent from this dashboard"));
    }
    assert_eq!(state(&db, &users).await, ConsumerState::Running);
    // The control: the same form, from the page that it is on.
    assert_eq!(served.post(PAUSE, &form).await.status, 303);
    assert_eq!(state(&db, &users).await, ConsumerState::Paused);
}

async fn a_form_without_its_token_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let (users, served, form) = form(&db).await;
    let foreign = Served::operable(users.worker(&db)).await;
    let foreign = format!("token={}", foreign.token("/consumers/users/1").await);
    let unknown = "token=a49c9f5c-5b1f-4a6a-8d52-7d4f2b9f8b53";
    for other in ["", "token=", "token=x", unknown, &foreign] {
        let answer = served.post(PAUSE, other).await;
        assert_eq!(answer.status, 403, "{other}: {}", answer.text());
        assert!(answer.text().contains("page is too old"), "{other}");
    }
    assert_eq!(state(&db, &users).await, ConsumerState::Running);
    assert_eq!(served.post(PAUSE, &form).await.status, 303);
}

async fn a_form_that_is_sent_again_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let (users, served, form) = form(&db).await;
    assert_eq!(served.post(PAUSE, &form).await.status, 303);
    users
        .worker(&db)
        .admin()
        .unwrap()
        .resume("users")
        .await
        .unwrap();
    let again = served.post(PAUSE, &form).await;
    assert_eq!(again.status, 403);
    assert!(again.text().contains("was sent before"), "{}", again.text());
    assert_eq!(state(&db, &users).await, ConsumerState::Running);
}

async fn an_action_that_is_not_allowed_is_neither_shown_nor_done<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users = stopped(&db).await;
    let before = rows(&db).await;
    let resume_only =
        DashboardOptions::new().authorize(|_, action| action.kind == ActionKind::Resume);
    let served = Served::with(users.worker(&db), resume_only).await;
    let page = served.page("/consumers/users/1").await;
    assert_eq!(page.matches("method=\"post\"").count(), 1, "{page}");
    for (action, form) in ACTIONS {
        if action == "resume" {
            continue;
        }
        let token = served.token("/consumers/users/1").await;
        let path = format!("/consumers/users/1/{action}");
        let answer = served.post(&path, &format!("token={token}&{form}")).await;
        assert_eq!(answer.status, 403, "{action}: {}", answer.text());
        assert!(
            answer.text().contains("you may not do this"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(rows(&db).await, before);
}

async fn the_program_is_told_who_asks_for_what<DB: TestDatabase>(db: Database<DB>) {
    let users = stopped(&db).await;
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = Arc::clone(&asked);
    let options = DashboardOptions::new().authorize(move |request, action| {
        let user = request
            .headers
            .get("x-user")
            .and_then(|user| user.to_str().ok());
        let is_allowed = user == Some("ada");
        if request.method == "POST" {
            let line = format!("{user:?} {} {:?}", action.consumer, action.kind);
            record.lock().unwrap().push(line);
        }
        is_allowed
    });
    let served = Served::with(users.worker(&db), options).await;
    let as_user = async |user: &str, path: &str| {
        let page = HttpRequest::get(served.address, "/consumers/users/1").header("x-user", "ada");
        let page = page.send().await.text();
        let (_, token) = page.split_once("name=\"token\" value=\"").unwrap();
        let form = format!("position=2&token={}", token.split('"').next().unwrap());
        let request = HttpRequest::post(served.address, path, &form).header("x-user", user);
        let origin = format!("http://{}", served.address);
        request.header("origin", &origin).send().await.status
    };
    assert_eq!(as_user("eve", "/consumers/users/1/park").await, 403);
    assert_eq!(as_user("ada", "/consumers/users/1/park").await, 303);
    let expected =
        ["eve", "ada"].map(|user| format!("Some({user:?}) users Park {{ position: 2 }}"));
    assert_eq!(*asked.lock().unwrap(), expected);
}

/// Sends the form of an action, and returns the status and the text of the answer.
async fn act(served: &Served, page: &str, action: &str, form: &str) -> (u16, String) {
    let token = served.token(page).await;
    let (consumer, _) = page.split_once("/parked").unwrap_or((page, ""));
    let form = format!("token={token}&{form}");
    let answer = served.post(&format!("{consumer}/{action}"), &form).await;
    (answer.status, answer.text())
}

const USERS: &str = "/consumers/users/1";

async fn a_stopped_consumer_is_parked_retried_and_running<DB: TestDatabase>(db: Database<DB>) {
    let users = stopped(&db).await;
    let served = Served::operable(users.worker(&db)).await;
    assert_eq!(act(&served, USERS, "park", "position=2").await.0, 303);
    let page = served.page(USERS).await;
    assert!(
        page.contains("running") && page.contains("1 event"),
        "{page}"
    );

    let parked = "/consumers/users/1/parked";
    let (status, text) = act(&served, parked, "retry-parked", "position=2").await;
    assert_eq!(status, 200);
    assert!(
        text.contains("0 events handled") && text.contains("failed again"),
        "{text}"
    );

    users.fail_on("bad", false);
    let (status, text) = act(&served, parked, "retry-parked", "position=2").await;
    assert_eq!(status, 200);
    assert!(
        text.contains("1 event handled") && !text.contains("failed"),
        "{text}"
    );
    assert_eq!(db.applied("users").await, [1, 2]);
    assert_eq!(db.parked("users").await, [0; 0]);
}

async fn a_stopped_consumer_is_resumed_or_skips_its_event<DB: TestDatabase>(db: Database<DB>) {
    let users = stopped(&db).await;
    let served = Served::operable(users.worker(&db)).await;
    assert_eq!(act(&served, USERS, "resume", "").await.0, 303);
    assert_eq!(state(&db, &users).await, ConsumerState::Running);
    run_once(users.worker(&db)).await;
    assert_eq!(act(&served, USERS, "skip", "position=2").await.0, 303);
    assert_eq!(state(&db, &users).await, ConsumerState::Running);
    assert_eq!(db.checkpoint("users").await, Some(2));
}

async fn a_parked_event_is_skipped<DB: TestDatabase>(db: Database<DB>) {
    let users =
        Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
    users.fail_on("bad", true);
    db.append("User", ["bad"]).await;
    run_once(users.worker(&db)).await;
    let served = Served::operable(users.worker(&db)).await;
    let done = act(
        &served,
        "/consumers/users/1/parked",
        "skip-parked",
        "position=1",
    )
    .await;
    assert_eq!(done.0, 303, "{}", done.1);
    assert_eq!(db.parked("users").await, [0; 0]);
}

async fn a_read_model_is_rebuilt<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append_many(3).await;
    run_once(users.worker(&db)).await;
    let served = Served::operable(users.worker(&db)).await;
    assert_eq!(act(&served, USERS, "rebuild", "").await.0, 303);
    let page = served.page(USERS).await;
    assert!(page.contains("rebuilding: 0 of 3, 0 %"), "{page}");
    assert_eq!(db.applied("users").await, [0; 0]);
}

async fn a_version_is_activated_and_the_old_one_forgotten<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append_many(3).await;
    run_once(users.worker(&db)).await;
    let second = Registered::scoped(users.clone()).version(2);
    let builder = || Worker::builder(db.store.clone()).registered(second.clone());
    let served = Served::operable(builder()).await;
    run_once(builder()).await;
    let done = act(&served, "/consumers/users/2", "activate", "").await;
    assert_eq!(done.0, 303, "{}", done.1);
    let admin = builder().admin().unwrap();
    assert_eq!(admin.active_version("users").await.unwrap(), Some(2));
    let done = act(&served, USERS, "forget", "").await;
    assert_eq!(done.0, 303, "{}", done.1);
    let old = admin.activate(Target::new("users").version(1), ActivateOptions::new());
    old.await.unwrap_err();
}

async fn a_scope_is_accepted<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    run_once(Model::new("users").scope(&["User"]).worker(&db)).await;
    let users = Model::new("users").scope(&["User", "Order"]);
    let served = Served::operable(users.worker(&db)).await;
    let page = served.page(USERS).await;
    assert!(page.contains("but the code has ["), "{page}");
    assert_eq!(act(&served, USERS, "accept-scope", "").await.0, 303);
    assert_eq!(state(&db, &users).await, ConsumerState::Running);
}

async fn an_action_that_the_library_refuses_says_why<DB: TestDatabase>(db: Database<DB>) {
    let users = stopped(&db).await;
    let served = Served::operable(users.worker(&db)).await;
    let (status, text) = act(&served, USERS, "park", "position=1").await;
    assert_eq!(status, 409);
    assert!(text.contains("is neither stopped at event 1"), "{text}");
    let (status, _) = act(&served, USERS, "drop", "").await;
    assert_eq!(status, 404);
    let (status, _) = act(&served, USERS, "park", "").await;
    assert_eq!(status, 404, "without a position");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_headers_that_browsers_obey() {
    let db = Database::<Sqlite>::fresh().await;
    db.append("User", ["ada"]).await;
    let served = Served::of(&db).await;
    for path in [
        "/",
        "/consumers/none/1",
        "/events",
        "/events/1",
        "/events/1/payload",
        "/events/x",
        "/nothing",
        "/live",
        "/live.js",
        "/style.css",
    ] {
        let answer = served.get(path).await;
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        for word in ["unsafe", "data:", "http", "*"] {
            assert!(!policy.contains(word), "{path}: {policy}");
        }
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}: {name}");
        }
    }
    let policy = served.get("/").await;
    let policy = policy.header("content-security-policy").unwrap();
    for part in [
        "frame-ancestors 'none'",
        "form-action 'self'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_names_another_origin() {
    let db = Database::<Sqlite>::fresh().await;
    let users = stopped(&db).await;
    let served = Served::operable(users.worker(&db)).await;
    for path in [
        "/",
        USERS,
        "/events",
        "/events/1",
        "/processes",
        "/style.css",
        "/live.js",
    ] {
        let page = served.page(path).await;
        for word in ["://", "src=\"//", "href=\"//", "@import", "url("] {
            assert!(!page.contains(word), "{path} has {word}");
        }
        for word in [" style=", " onclick=", "<style", "javascript:"] {
            assert!(!page.contains(word), "{path} has {word}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_too_many_bytes_is_refused() {
    let db = Database::<Sqlite>::fresh().await;
    let (users, served, form) = form(&db).await;
    let large = format!("{form}&rest={}", "x".repeat(64 * 1024));
    assert_eq!(served.post(PAUSE, &large).await.status, 413);
    assert_eq!(state(&db, &users).await, ConsumerState::Running);
}

/// Runs a command of a program with one consumer.
async fn command(db: &Database<Sqlite>, line: &str) -> (Exit, String) {
    let console = Console::captured([]);
    let cli = Cli::try_parse_from(["worker"].into_iter().chain(line.split(' '))).unwrap();
    let exit = cli.run_on(Model::new("users").worker(db), &console).await;
    (exit, console.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_listens_beyond_loopback_only_with_a_password() {
    let db = Database::<Sqlite>::fresh().await;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let (exit, text) = command(&db, &format!("dashboard --listen {address}")).await;
        assert_eq!(exit, Exit::Refused, "{text}");
        assert!(text.contains("without authentication"), "{text}");
    }
    let directory = tempfile::tempdir().unwrap();
    let short = directory.path().join("short");
    std::fs::write(&short, "secret\n").unwrap();
    let line = format!(
        "dashboard --listen 0.0.0.0:0 --password-file {}",
        short.display()
    );
    let (exit, text) = command(&db, &line).await;
    assert_eq!(exit, Exit::Refused, "{text}");
    assert!(text.contains("shorter than 16 bytes"), "{text}");
    let line = format!(
        "dashboard --password-file {}/none",
        directory.path().display()
    );
    let (exit, text) = command(&db, &line).await;
    assert_eq!(exit, Exit::Failed, "{text}");
}

/// The command in a process of its own; ended when this value goes.
struct Process {
    child: std::process::Child,
    address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(db: &Database<Sqlite>, options: &[&str]) -> Self {
        use std::io::BufRead as _;
        let mut child = Command::new(env!("CARGO_BIN_EXE_test_operator"))
            .args(["consumers", "dashboard"])
            .args(options)
            .env("TEST_OPERATOR_URL", &db.url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line
            .trim()
            .strip_prefix("http://")
            .unwrap()
            .parse()
            .unwrap();
        Self { child, address }
    }

    async fn status(&self, host: &str, authorization: Option<&str>) -> u16 {
        let mut request = HttpRequest::get(self.address, "/").host(host);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        request.send().await.status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_answers_only_to_the_names_of_this_machine() {
    let db = Database::<Sqlite>::fresh().await;
    let process = Process::start(&db, &[]);
    assert!(process.address.ip().is_loopback());
    let own = process.address.to_string();
    assert_eq!(process.status(&own, None).await, 200);
    assert_eq!(process.status("localhost", None).await, 200);
    assert_eq!(process.status("evil.example", None).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_with_a_password_asks_for_it() {
    let db = Database::<Sqlite>::fresh().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "correct horse battery\n").unwrap();
    let process = Process::start(&db, &["--password-file", file.to_str().unwrap()]);
    let own = process.address.to_string();
    assert_eq!(process.status(&own, None).await, 401);
    assert_eq!(process.status(&own, Some("Basic eDp5")).await, 401);
    // `operator:correct horse battery`
    let right = "Basic b3BlcmF0b3I6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5";
    assert_eq!(process.status(&own, Some(right)).await, 200);
    assert_eq!(process.status("ops.example", Some(right)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_are_not_admitted_get_the_headers_too() {
    let db = Database::<Sqlite>::fresh().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "correct horse battery\n").unwrap();
    for (options, host, status) in [
        (
            &["--password-file", file.to_str().unwrap()][..],
            "localhost",
            401,
        ),
        (&[], "evil.example", 403),
    ] {
        let process = Process::start(&db, options);
        let answer = HttpRequest::get(process.address, "/")
            .host(host)
            .send()
            .await;
        assert_eq!(answer.status, status);
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'"), "{host}: {policy}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{host}");
    }
}

/// A page that is open for long does not use up the tokens of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_brought_up_to_date_keeps_its_token() {
    let db = Database::<Sqlite>::fresh().await;
    let (users, served, form) = form(&db).await;
    let token = form.trim_start_matches("token=");
    let refreshed = HttpRequest::get(served.address, USERS).header("x-form-token", token);
    let refreshed = refreshed.send().await.text();
    assert!(refreshed.contains(token), "{refreshed}");
    // The control: another window has one of its own.
    assert_ne!(served.token(USERS).await, token);
    assert_eq!(served.post(PAUSE, &form).await.status, 303);
    assert_eq!(state(&db, &users).await, ConsumerState::Paused);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_is_read_only_unless_it_is_told_otherwise() {
    let db = Database::<Sqlite>::fresh().await;
    let users = stopped(&db).await;
    let offered = async |options: &[&str]| {
        let process = Process::start(&db, options);
        let page = HttpRequest::get(process.address, USERS).send().await;
        page.text().contains("method=\"post\"")
    };
    assert!(!offered(&[]).await);
    assert!(offered(&["--allow-actions"]).await);
    drop(users);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_ends_when_it_is_asked_to() {
    let db = Database::<Sqlite>::fresh().await;
    let mut process = Process::start(&db, &[]);
    // A window that waits for news, and may or may not get them.
    let first = HttpRequest::get(process.address, "/live").send().await;
    assert_eq!(first.status, 200);
    let live = HttpRequest::get(process.address, "/live").header("last-event-id", "1");
    let window = tokio::spawn(live.send());
    signal(process.child.id(), "TERM");
    let ended = patiently("it ends", async {
        loop {
            if let Some(ended) = process.child.try_wait().unwrap() {
                return ended;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(ended.await.code(), Some(0));
    drop(window.await);
}

/// The router is the same whatever the program's own layers add.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_can_put_its_own_layers_before_the_router() {
    let db = Database::<Sqlite>::fresh().await;
    let users = stopped(&db).await;
    let own = router(users.worker(&db).admin().unwrap(), DashboardOptions::new());
    let guarded = own.layer(axum::middleware::from_fn(
        |request: axum::extract::Request, next: axum::middleware::Next| async move {
            if request.headers().contains_key("x-user") {
                next.run(request).await
            } else {
                axum::response::IntoResponse::into_response(axum::http::StatusCode::UNAUTHORIZED)
            }
        },
    ));
    let served = Served::router(guarded).await;
    assert_eq!(served.get("/").await.status, 401);
    let request = HttpRequest::get(served.address, "/").header("x-user", "ada");
    assert_eq!(request.send().await.status, 200);
}
