//! What programs, events and readers write is shown by every page of the router as it is, and never run.

use std::collections::BTreeSet;

use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use axum::response::{Html, IntoResponse as _};
use axum::routing::get;
use consumer::dashboard::{DashboardOptions, router};
use consumer::{Formerly, Metadata, NewEvent, OnError, Registered, Settings, WorkerBuilder};
use consumer_tests::http::HttpAnswer;
use consumer_tests::{Browser, Database, Served, TestDatabase, judging, read_model, run_once};
use serde_json::json;
use sqlx::{Postgres, Sqlite};
use uuid::Uuid;

/// A text that says which field it is in, and runs a script wherever something is not escaped.
fn hostile(field: &str) -> String {
    let script = "window.hacked = 1";
    format!(
        "{field}</title></pre></textarea></script><script data-injected>{script}</script>\
         <img data-injected src=x onerror='{script}'>` \" data-injected=\"1"
    )
}

/// As long as a session's name may be.
const SESSION: &str = "app</title><img data-injected src=x onerror=window.hacked=1>";

/// Where a database has hostile texts, besides [`SESSION`].
const FIELDS: [&str; 19] = [
    "type",
    "id",
    "event",
    "payload",
    "JSON",
    "metadata",
    "trace",
    "correlation",
    "causation",
    "failed",
    "parked",
    "release",
    "host",
    "group",
    "scope",
    "earlier",
    "consumer",
    // In an address.
    "q",
    "position",
];

fn leaked(field: &str) -> &'static str {
    hostile(field).leak()
}

fn at_once() -> Settings {
    Settings::default().retries(0)
}

/// A consumer of each kind that quotes what others wrote.
const CONSUMERS: [&str; 5] = ["stops", "parks", "waits", "narrowed", "taken_over"];

/// The release before, some of whose consumers are gone.
fn before<DB: TestDatabase>(db: &Database<DB>) -> WorkerBuilder<DB> {
    let scoped = |name, field| read_model(name).scope(&[leaked(field)]);
    let builder = db.worker().release(hostile("release"));
    let builder = builder.scoped_consumer(scoped("narrowed", "earlier"));
    builder.scoped_consumer(scoped("gone", "gone"))
}

/// The consumers of the program.
fn consumers<DB: TestDatabase>(db: &Database<DB>) -> WorkerBuilder<DB> {
    let stops = judging("stops", |_, _| Err(hostile("failed")));
    let mut stops = Registered::new(stops.settings(at_once()));
    stops.declaration.group = Some(leaked("group"));
    let parks = judging("parks", |_, _| Err(hostile("parked")));
    let waits = read_model("waits").knows(|format| *format.event_type != *hostile("event"));
    let narrowed = read_model("narrowed").scope(&[leaked("scope")]);
    let taken_over = read_model("taken_over").scope(&[leaked("gone")]);
    let builder = db.worker().release(hostile("release")).registered(stops);
    builder
        .consumer(parks.settings(at_once().on_error(OnError::Park)))
        .consumer(waits)
        .scoped_consumer(narrowed)
        .scoped_consumer(taken_over.formerly(Formerly::Unstated))
}

/// The first event, which has something in every field.
fn first() -> NewEvent {
    let by = json!({ "by": hostile("metadata") });
    NewEvent::new(
        hostile("type"),
        hostile("id"),
        hostile("event"),
        hostile("payload"),
    )
    .metadata(Metadata::new(&by).unwrap())
    .trace_id(hostile("trace"))
    .correlation_id(hostile("correlation"))
    .causation_id(hostile("causation"))
}

/// What only a damaged table, or another program, can bring about.
fn damage<DB: TestDatabase>() -> String {
    let text = |field| hostile(field).replace('\'', "''");
    let column = match DB::NAME {
        "SQLite" => format!("event_id = '{}'", text("event id")),
        _ => "created_at = 'infinity'".to_owned(),
    };
    format!(
        "UPDATE events SET {column} WHERE global_position = 3;
         UPDATE consumer_worker SET host = '{}';
         UPDATE consumer_worker SET consumer = '{consumer}' WHERE consumer = 'gone';
         UPDATE consumer_progress SET consumer = '{consumer}' WHERE consumer = 'gone'",
        text("host"),
        consumer = text("consumer")
    )
}

async fn fill<DB: TestDatabase>(db: &Database<DB>) -> Uuid {
    let id = db.append_events(&[first()]).await[0].event_id;
    let payload = json!({ "text": hostile("JSON") }).to_string();
    db.append_event(NewEvent::new("User", "u", "Renamed", payload))
        .await;
    db.append("User", ["unreadable"]).await;
    run_once(before(db)).await;
    run_once(consumers(db)).await;
    db.execute(&damage::<DB>()).await;
    run_once(consumers(db)).await;
    id
}

/// The paths of a router, which tells them in no other way.
fn routes(router: &Router) -> BTreeSet<String> {
    let text = format!("{router:?}");
    let quoted = text.split('"').skip(1).step_by(2);
    let paths = quoted.filter(|path| path.starts_with('/') && !path.contains("__private"));
    paths.map(str::to_owned).collect()
}

/// A text as a part of an address.
fn encoded(text: &str) -> String {
    let bytes = text.bytes();
    bytes.fold(String::new(), |all, byte| format!("{all}%{byte:02X}"))
}

/// What a parameter in a path can be.
fn values(parameter: &str, event_id: Uuid) -> Vec<String> {
    let with_another = |known: &[&str]| {
        let known = known.iter().map(|one| (*one).to_owned());
        known.chain([hostile(parameter)]).collect()
    };
    match parameter {
        "consumer" => [&CONSUMERS[..], &["nobody"]]
            .concat()
            .iter()
            .map(|one| (*one).to_owned())
            .chain([hostile("consumer")])
            .collect(),
        "version" => vec!["1".to_owned()],
        "position" => with_another(&["1", "2", "3", "99"]),
        "event_id" => with_another(&[&event_id.to_string()]),
        "action" => [
            "pause",
            "resume",
            "park",
            "skip",
            "retry-parked",
            "skip-parked",
            "rebuild",
        ]
        .into_iter()
        .chain(["activate", "accept-scope", "forget"])
        .map(str::to_owned)
        .collect(),
        other => panic!("no values for `{{{other}}}`, which is new in a path"),
    }
}

/// The addresses of a path, with each value of each of its parameters.
fn addresses(path: &str, event_id: Uuid) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let (parameter, after) = rest.split_once('}').unwrap();
    let rests = addresses(after, event_id);
    let values = values(parameter, event_id);
    let pairs = values
        .iter()
        .flat_map(|value| rests.iter().map(move |rest| (value, rest)));
    pairs
        .map(|(value, rest)| format!("{before}{}{rest}", encoded(value)))
        .collect()
}

/// The queries to ask a page with: none, one of texts, and one of what should be numbers.
fn queries(path: &str) -> Vec<String> {
    const TEXTS: [&str; 8] = [
        "q",
        "position",
        "type",
        "id",
        "event",
        "correlation",
        "causation",
        "consumer",
    ];
    let pair = |name: &str, value: &str| format!("{name}={}", encoded(value));
    let hostile_pairs = |names: &[&str]| {
        let pairs: Vec<String> = names
            .iter()
            .map(|name| pair(name, &hostile(name)))
            .collect();
        pairs.join("&")
    };
    let numbers = hostile_pairs(&["before", "after", "version"]);
    let mut queries = vec![String::new(), hostile_pairs(&TEXTS), numbers];
    if path == "/events/{position}" {
        queries.extend(CONSUMERS.map(|name| pair("consumer", name)));
    }
    queries
}

/// Answers that no browser takes for a page.
const FILES: [&str; 4] = [
    "application/octet-stream",
    "text/css; charset=utf-8",
    "text/event-stream",
    "text/javascript; charset=utf-8",
];

fn is_a_file(answer: &HttpAnswer) -> bool {
    let kind = answer.header("content-type").unwrap_or_default();
    FILES.contains(&kind) && answer.header("x-content-type-options") == Some("nosniff")
}

/// What a page did, what was added to it, the links that leave it, and what it shows.
const FOUND: &str = "
    const all = (selector) => [...document.querySelectorAll(selector)];
    const address = (one) => one.getAttribute('href') ?? one.getAttribute('action');
    const leaves = (one) => new URL(address(one), location.href).origin !== location.origin;
    return {
        ran: window.hacked === 1,
        injected: all('[data-injected]').length,
        leaving: all('[href], [action]').filter(leaves).map((one) => one.outerHTML),
        shown: document.documentElement.textContent + all('input').map((one) => one.value).join(' '),
    }";

/// Opens the page of an address, and returns what it shows.
async fn open(browser: &Browser, address: &str) -> String {
    browser.open(address).await;
    let found = browser.run(FOUND).await;
    let wanted = json!({ "ran": false, "injected": 0, "leaving": [], "shown": found["shown"] });
    assert_eq!(found, wanted, "{address}");
    found["shown"].as_str().unwrap().to_owned()
}

/// Opens every page of the dashboard, then sends every form of it, and returns what the pages show.
async fn open_all<DB: TestDatabase>(
    browser: &Browser,
    db: &Database<DB>,
    event_id: Uuid,
) -> String {
    let options = DashboardOptions::new().authorize(|_, _| true);
    let router = router(consumers(db).admin().unwrap(), options);
    let routes = routes(&router);
    assert!(routes.contains("/processes"), "{routes:?}");
    let (forms, pages): (Vec<_>, Vec<_>) =
        routes.iter().partition(|path| path.ends_with("{action}"));
    let served = Served::router(router).await;
    let mut shown = String::new();
    for path in pages {
        for address in addresses(path, event_id) {
            for query in queries(path) {
                let address = format!("{address}?{query}");
                if !is_a_file(&served.get(&address).await) {
                    let url = format!("http://{}{address}", served.address);
                    shown.push_str(&open(browser, &url).await);
                }
            }
        }
    }
    for field in FIELDS {
        let text = format!("{field}</title>");
        assert!(shown.contains(&text), "no page shows the hostile {field}");
    }
    for address in forms.iter().flat_map(|path| addresses(path, event_id)) {
        let token = served.token("/consumers/stops/1").await;
        let form = format!("position=1&token={token}");
        let text = served.post(&address, &form).await.text();
        assert!(!text.contains("<script data"), "{address}: {text}");
        assert!(!text.contains("<img"), "{address}: {text}");
    }
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_runs_what_others_wrote_on_sqlite() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let db = Database::<Sqlite>::fresh().await;
    let event_id = fill(&db).await;
    open_all(&browser, &db, event_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_runs_what_others_wrote_on_postgres() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let db = Database::<Postgres>::fresh().await;
    let event_id = fill(&db).await;
    let slow = db.left_open(SESSION).await;
    db.append("User", ["later"]).await;
    let shown = open_all(&browser, &db, event_id).await;
    assert!(shown.contains(SESSION), "no page shows what blocks the log");
    slow.rollback().await.unwrap();
}

/// The control: a page that escapes nothing is found out; and what keeps the script from running there.
#[tokio::test(flavor = "multi_thread")]
async fn the_policy_alone_keeps_scripts_from_running() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let db = Database::<Sqlite>::fresh().await;
    let dashboard = Served::of(&db).await.get("/").await;
    let policy = dashboard.header("content-security-policy").unwrap();
    let policy = HeaderValue::from_str(policy).unwrap();
    let page = || async { Html(format!("<p>{0}</p><p title=\"{0}\"></p>", hostile("raw"))) };
    let guarded =
        move || async move { ([(CONTENT_SECURITY_POLICY, policy)], page().await).into_response() };
    let raw = Router::new()
        .route("/", get(page))
        .route("/guarded", get(guarded));
    let raw = Served::router(raw).await;
    for (path, ran) in [("/", true), ("/guarded", false)] {
        browser.open(&format!("http://{}{path}", raw.address)).await;
        let found = browser.run(FOUND).await;
        assert_eq!(found["ran"], json!(ran), "{path}: {found}");
        assert!(found["injected"].as_u64().unwrap() > 2, "{path}: {found}");
        assert!(!found["shown"].as_str().unwrap().contains("raw</title>"));
    }
}
