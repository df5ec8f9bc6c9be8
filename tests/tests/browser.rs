//! The dashboard in a real browser: what an operator does, and what everyone can read.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use consumer::dashboard::{DashboardOptions, router};
use consumer::{NewEvent, Registered, Settings, Worker, WorkerBuilder};
use consumer_tests::{
    Browser, Database, Model, Running, Served, TestConsumer, TestDatabase, consumer, run_once,
    test_on,
};
use serde_json::json;
use sqlx::{Postgres, Sqlite};
use tokio::sync::Semaphore;

test_on!(
    [sqlite, postgres],
    a_failure_is_seen_parked_repaired_and_retried,
    a_version_is_rebuilt_beside_the_other_and_activated,
    a_failure_is_handled_without_scripts,
    a_version_is_rebuilt_and_activated_without_scripts,
    events_are_found_and_skipped_without_scripts,
);

test_on!(
    [sqlite],
    a_read_only_dashboard_has_nothing_to_press,
    a_page_of_another_site_changes_nothing,
    the_keyboard_reaches_everything,
    the_same_form_on_the_own_site_works,
);

test_on!(
    [postgres],
    a_blocked_frontier_is_named_and_gone_when_it_ends
);

fn url(served: &Served, path: &str) -> String {
    format!("http://{}{path}", served.address)
}

/// The consumer `users`, which has handled an event.
async fn handled<DB: TestDatabase>(db: &Database<DB>) -> Model {
    let users = Model::new("users");
    db.append("User", ["ada"]).await;
    run_once(users.worker(db)).await;
    users
}

/// The consumer `users`, which has failed on its first event.
async fn failed<DB: TestDatabase>(db: &Database<DB>) -> Model {
    let users = Model::new("users");
    users.fail_on("bad", true);
    let event = NewEvent::new("User", "bad", "Renamed", r#"{"name":"Ada"}"#);
    db.append_event(event).await;
    run_once(users.worker(db)).await;
    users
}

/// Sends the form whose warning is shown.
async fn confirm(browser: &Browser) {
    browser.click_the("details[open] button").await;
}

/// An error and its cause.
#[derive(Debug)]
struct Caused(&'static str, Option<Box<dyn Error + Send + Sync>>);

impl fmt::Display for Caused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Caused {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|cause| cause as _)
    }
}

const CHAIN: &str = "cannot send the mail: the server hung up: connection reset";

/// The consumer `users`, which fails with two causes until it is repaired.
fn mails<DB: TestDatabase>(is_repaired: &Arc<AtomicBool>) -> TestConsumer<DB> {
    let is_repaired = Arc::clone(is_repaired);
    let mails = consumer("users", move |_, tx, event| {
        let is_repaired = is_repaired.load(Ordering::SeqCst);
        Box::pin(async move {
            if is_repaired {
                return Ok(DB::apply(tx, "users", event).await?);
            }
            let reset = Caused("connection reset", None);
            let hung_up = Caused("the server hung up", Some(reset.into()));
            Err(Caused("cannot send the mail", Some(hung_up.into())).into())
        })
    });
    mails.settings(Settings::default().retries(0))
}

async fn a_failure_is_seen_parked_repaired_and_retried<DB: TestDatabase>(db: Database<DB>) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let is_repaired = Arc::new(AtomicBool::new(false));
    let users = || db.worker().consumer(mails(&is_repaired));
    let event = NewEvent::new("User", "bad", "Renamed", r#"{"name":"Ada","tags":["x"]}"#);
    db.append_event(event).await;
    let worker = Running::start(users());
    let served = Served::operable(users()).await;

    browser.open(&url(&served, "/")).await;
    browser.shows("stopped").await;
    browser.shows("1 consumer needs attention").await;
    browser.click("users").await;
    browser.shows(CHAIN).await;
    browser.shows("\"name\": \"Ada\"").await;
    browser.shows("Failed 1 time").await;

    browser.click("Park event 1").await;
    browser.shows("1 event of 1 aggregate").await;
    browser.hides(CHAIN).await;
    browser.click("1 event").await;
    browser.shows("User bad").await;
    browser.shows(CHAIN).await;

    // The repair, without loading anything again but by the form.
    is_repaired.store(true, Ordering::SeqCst);
    browser.click("Retry this aggregate").await;
    browser.shows("1 event handled").await;
    browser.click("Back").await;
    browser.shows("No event is parked").await;
    assert_eq!(db.applied("users").await, [1]);
    assert_eq!(db.parked("users").await, [0; 0]);
    worker.stop().await;
}

async fn a_version_is_rebuilt_beside_the_other_and_activated<DB: TestDatabase>(db: Database<DB>) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let first = Model::new("users").settings(Settings::default().batch_size(10));
    db.append_many(100).await;
    run_once(first.worker(&db)).await;
    let gate = Arc::new(Semaphore::new(25));
    let second = Registered::scoped(first.clone().gate(&gate)).version(2);
    let builder =
        || -> WorkerBuilder<DB> { Worker::builder(db.store.clone()).registered(second.clone()) };
    let worker = Running::start(builder());
    let served = Served::operable(builder()).await;

    browser.open(&url(&served, "/consumers/users/2")).await;
    browser.shows("rebuilding: 20 of 100, 20 %").await;
    browser.shows("v1 active").await;
    // The page follows, without being loaded again.
    browser.run("window.isTheSamePage = true").await;
    gate.add_permits(30);
    browser.shows("rebuilding: 50 of 100, 50 %").await;
    gate.add_permits(1_000);
    browser.hides("rebuilding").await;
    assert_eq!(
        browser.run("return window.isTheSamePage").await,
        json!(true)
    );

    browser.click("Activate this version").await;
    browser
        .shows("Queries of the read model will be answered by this version")
        .await;
    confirm(&browser).await;
    browser.shows("v2 active").await;
    let admin = builder().admin().unwrap();
    assert_eq!(admin.active_version("users").await.unwrap(), Some(2));
    worker.stop().await;
}

async fn a_blocked_frontier_is_named_and_gone_when_it_ends(db: Database<Postgres>) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let users = handled(&db).await;
    let open = db.left_open("nightly import").await;
    db.append("User", ["bob"]).await;
    let served = Served::read_only(users.worker(&db)).await;
    browser.open(&url(&served, "/")).await;
    browser.shows("Blocked by pid").await;
    browser.shows("app=nightly import").await;
    open.commit().await.unwrap();
    browser.hides("Blocked by").await;
}

/// A page that tells whether the browser runs scripts.
const PROBE: &str =
    "<noscript>No script runs.</noscript><script>document.write('A script runs.')</script>";

async fn without_scripts() -> Option<Browser> {
    let browser = Browser::without_scripts().await?;
    let probe = || async { axum::response::Html(PROBE) };
    let probe = axum::Router::new().route("/", axum::routing::get(probe));
    let probe = Served::router(probe).await;
    browser.open(&url(&probe, "/")).await;
    assert_eq!(browser.text().await, "No script runs.");
    Some(browser)
}

async fn a_failure_is_handled_without_scripts<DB: TestDatabase>(db: Database<DB>) {
    let Some(browser) = without_scripts().await else {
        return;
    };
    let users = failed(&db).await;
    let good = db.append("User", ["good"]).await[0];
    let served = Served::operable(users.worker(&db)).await;

    browser.open(&url(&served, "/")).await;
    browser.click("users").await;
    browser.shows("cannot handle bad").await;
    browser.click("Park event 1").await;
    browser.shows("1 event of 1 aggregate").await;
    browser.hides("cannot handle bad").await;
    run_once(users.worker(&db)).await;

    browser.click("1 event").await;
    browser.shows("cannot handle bad").await;
    browser.click("1").await;
    browser.shows("\"name\": \"Ada\"").await;
    browser.click("users").await;
    browser.shows("parked (failed 1 time)").await;

    users.fail_on("bad", false);
    browser
        .open(&url(&served, "/consumers/users/1/parked"))
        .await;
    browser.click("Retry this aggregate").await;
    browser.shows("1 event handled").await;
    browser.click("Back").await;
    browser.shows("No event is parked").await;
    assert_eq!(db.applied("users").await, [good, 1]);
    assert_eq!(db.parked("users").await, [0; 0]);
}

async fn a_version_is_rebuilt_and_activated_without_scripts<DB: TestDatabase>(db: Database<DB>) {
    let Some(browser) = without_scripts().await else {
        return;
    };
    let users = Model::new("users");
    db.append_many(3).await;
    run_once(users.worker(&db)).await;
    let second = Registered::scoped(users.clone()).version(2);
    let both = || users.worker(&db).registered(second.clone());
    let served = Served::operable(both()).await;

    browser.open(&url(&served, "/consumers/users/1")).await;
    browser.click("Rebuild").await;
    browser.shows("This empties the read model").await;
    confirm(&browser).await;
    browser.shows("rebuilding: 0 of 3, 0 %").await;
    assert_eq!(db.applied("users").await, [0; 0]);
    run_once(both()).await;
    browser.reloads_until("running").await;
    browser.hides("rebuilding").await;

    browser.click("v2").await;
    browser.click("Activate this version").await;
    browser
        .shows("Queries of the read model will be answered by this version")
        .await;
    confirm(&browser).await;
    browser.shows("v2 active").await;
    let admin = both().admin().unwrap();
    assert_eq!(admin.active_version("users").await.unwrap(), Some(2));
}

async fn events_are_found_and_skipped_without_scripts<DB: TestDatabase>(db: Database<DB>) {
    let Some(browser) = without_scripts().await else {
        return;
    };
    let users = failed(&db).await;
    let served = Served::operable(users.worker(&db)).await;
    browser.open(&url(&served, "/")).await;
    browser.click("users").await;
    browser.shows("cannot handle bad").await;
    browser.click("Skip event 1").await;
    browser
        .shows("The consumer will never handle this event")
        .await;
    confirm(&browser).await;
    browser.shows("running").await;
    assert_eq!(db.checkpoint("users").await, Some(1));

    browser.click("Events").await;
    browser.shows("Aggregate type").await;
    browser.click("1").await;
    browser.shows("In the consumers").await;
    browser.click("users").await;
    browser.shows("handled, or skipped").await;
}

async fn a_read_only_dashboard_has_nothing_to_press(db: Database<Sqlite>) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let users = failed(&db).await;
    let served = Served::read_only(users.worker(&db)).await;
    for path in ["/", "/consumers/users/1", "/consumers/users/1/parked"] {
        browser.open(&url(&served, path)).await;
        assert!(browser.all("form[method=post]").await.is_empty(), "{path}");
    }
    // Forms that someone makes on the page itself are refused.
    browser.open(&url(&served, "/consumers/users/1")).await;
    let send = "const done = arguments[0];
        const actions = ['pause', 'resume', 'park', 'skip', 'retry-parked', 'skip-parked', 'rebuild', 'activate',
            'accept-scope', 'forget'];
        const form = { token: 'x', position: '1', accept: 'true' };
        const send = (action) => fetch(`/consumers/users/1/${action}`, { method: 'POST', body: new URLSearchParams(form) });
        Promise.all(actions.map(send)).then((answers) => done(answers.map((answer) => answer.status)))";
    assert_eq!(browser.run_async(send).await, json!(vec![403; 10]));
    browser.shows("stopped").await;
}

async fn a_page_of_another_site_changes_nothing(db: Database<Sqlite>) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let users = handled(&db).await;
    let served = Served::operable(users.worker(&db)).await;
    let token = served.token("/consumers/users/1").await;
    // The other site has even stolen a token, and is not stopped by the browser before it sends.
    let attack = format!(
        "<form method=post action='{}'><input name=token value={token}><button>Win a prize</button></form>",
        url(&served, "/consumers/users/1/pause").replace("127.0.0.1", "localhost")
    );
    let other = axum::Router::new().route(
        "/",
        axum::routing::get(|| async { axum::response::Html(attack) }),
    );
    let other = Served::router(other).await;
    browser.open(&url(&other, "/")).await;
    browser.click("Win a prize").await;
    browser.shows("not sent from this dashboard").await;
    assert_eq!(
        db.texts("SELECT state FROM consumer_progress").await,
        ["running"]
    );
}

/// The text of the element that has the focus.
const FOCUSED: &str = "return document.activeElement.textContent.trim()";

async fn the_keyboard_reaches_everything(db: Database<Sqlite>) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let users = failed(&db).await;
    let served = Served::operable(users.worker(&db)).await;
    browser.open(&url(&served, "/consumers/users/1")).await;
    browser.shows("stopped").await;
    let mut reached = Vec::new();
    for _ in 0..12 {
        browser.press("\u{e004}").await;
        reached.push(
            browser
                .run(FOCUSED)
                .await
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    for text in [
        "Skip to content",
        "Consumers",
        "Events",
        "Resume",
        "Park event 1",
    ] {
        assert!(
            reached.iter().any(|one| one == text),
            "no `{text}` in {reached:?}"
        );
    }
    // What needs a confirmation is opened, and confirmed.
    press_on(&browser, "Skip event 1…").await;
    browser
        .shows("The consumer will never handle this event")
        .await;
    press_on(&browser, "Skip event 1").await;
    browser.shows("running").await;
    assert_eq!(db.checkpoint("users").await, Some(1));
    // A form without a question.
    press_on(&browser, "Pause").await;
    browser.shows("paused").await;
}

/// Moves the focus with the tabulator to the link or button of a text, and presses it with its key.
async fn press_on(browser: &Browser, text: &str) {
    let mut reached = Vec::new();
    for _ in 0..30 {
        browser.press("\u{e004}").await;
        let focused = browser.run(FOCUSED).await;
        if focused == json!(text) {
            return browser.press("\u{e007}").await;
        }
        reached.push(focused);
    }
    panic!("no `{text}` in {reached:?}");
}

/// The dashboard of the control: without the token check, the stolen form would do.
async fn the_same_form_on_the_own_site_works(db: Database<Sqlite>) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let users = handled(&db).await;
    let options = DashboardOptions::new().authorize(|_, _| true);
    let served = Served::router(router(users.worker(&db).admin().unwrap(), options)).await;
    browser.open(&url(&served, "/consumers/users/1")).await;
    browser.click("Pause").await;
    browser.shows("paused").await;
    assert_eq!(
        db.texts("SELECT state FROM consumer_progress").await,
        ["paused"]
    );
}
