//! The pages of the dashboard: what they show, of any content.

use std::sync::Arc;

use axum::Router;
use consumer::dashboard::{DashboardOptions, router};
use consumer::{Formerly, NewEvent, OnError, Settings, aggregate_slice};
use consumer_tests::{
    Counting, Database, Model, Running, Served, TestDatabase, consumer, patiently, read_model,
    run_once, test_on,
};
use sqlx::Postgres;
use tokio::sync::{Notify, Semaphore};

test_on!(
    [sqlite, postgres],
    every_page_shows_what_there_is,
    a_consumer_that_fails_shows_its_event_payload_and_error,
    nothing_that_a_program_wrote_is_markup,
    a_payload_of_10_mb_is_cut_and_can_be_downloaded,
    a_payload_that_is_no_text_is_dumped,
    events_are_paged_by_keys_in_both_directions,
    events_of_a_type_or_an_aggregate_are_found,
    what_no_index_finds_is_searched_for_step_by_step,
    an_event_leads_to_its_cause_effects_and_relatives,
    an_event_tells_what_a_consumer_made_of_it,
    parked_events_are_shown_by_aggregate_and_in_order,
    a_thousand_parked_events_are_paged,
    versions_are_shown_side_by_side,
    a_dashboard_under_a_path_links_below_it,
    what_is_not_there_is_said_to_be_missing,
    pages_need_no_code_of_the_consumers,
    an_event_that_no_release_knows_is_shown_with_its_content,
    a_consumer_that_is_held_back_says_why,
    a_consumer_without_a_worker_needs_attention,
    a_batch_in_progress_is_shown_before_it_ends,
    each_failing_segment_shows_its_event_and_error,
    an_event_that_cannot_be_decoded_shows_the_rest,
    the_processes_and_releases_of_a_consumer_are_named,
    a_read_only_page_names_the_commands_that_do_the_same,
);

test_on!(
    [empty_sqlite, empty_postgres],
    without_tables_the_pages_say_so
);

/// An event of a user with a payload.
fn renamed(id: &str, payload: impl Into<Vec<u8>>) -> NewEvent {
    NewEvent::new("User", id, "Renamed", payload.into())
}

async fn every_page_shows_what_there_is<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").scope(&["User"]);
    db.append("User", ["ada", "bob"]).await;
    run_once(users.worker(&db)).await;
    let head = db.append("User", ["eve"]).await[0];
    let served = Served::read_only(users.worker(&db)).await;

    let overview = served.page("/").await;
    let latest = format!("/events/{head}\">");
    for text in ["users", "running", "1 consumer", "no problems", &latest] {
        assert!(overview.contains(text), "no `{text}` in {overview}");
    }
    let consumer = served.page("/consumers/users/1").await;
    for text in [
        "Checkpoint",
        ">2<",
        "Handler timeout",
        "Read-only",
        "by hand",
        "User",
    ] {
        assert!(consumer.contains(text), "no `{text}` in {consumer}");
    }
    let events = served.page("/events").await;
    let order: Vec<_> = ["eve", "bob", "ada"]
        .map(|id| events.find(id).unwrap())
        .into();
    assert!(order.is_sorted(), "latest first: {events}");
    let event = served.page("/events/2").await;
    assert!(
        event.contains("bob") && event.contains("Changed"),
        "{event}"
    );
    let processes = served.page("/processes").await;
    assert!(
        processes.contains("users") && processes.contains("0–1023"),
        "{processes}"
    );
    let parked = served.page("/consumers/users/1/parked").await;
    assert!(parked.contains("No event is parked"), "{parked}");
}

async fn a_consumer_that_fails_shows_its_event_payload_and_error<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users = Model::new("users");
    users.fail_on("bad", true);
    let bad = renamed("bad", r#"{"name":"Ada","tags":[]}"#);
    let position = db.append_event(bad).await;
    run_once(users.worker(&db)).await;
    let served = Served::read_only(users.worker(&db)).await;

    let overview = served.page("/").await;
    for text in [
        "1 consumer",
        "needs attention",
        "stopped",
        "cannot handle bad",
    ] {
        assert!(overview.contains(text), "no `{text}` in {overview}");
    }
    let page = served.page("/consumers/users/1").await;
    for text in [
        "stopped",
        "cannot handle bad",
        "Failed 1 time",
        "&quot;name&quot;: &quot;Ada&quot;",
        "&quot;tags&quot;: []",
        "Renamed",
        &format!("href=\"/events/{position}\""),
        &format!("href=\"/events/{position}/payload\""),
    ] {
        assert!(page.contains(text), "no `{text}` in {page}");
    }
}

const SCRIPT: &str = "</script></pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'";

async fn nothing_that_a_program_wrote_is_markup<DB: TestDatabase>(db: Database<DB>) {
    let users =
        Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
    users.fail_on(SCRIPT, true);
    let event = NewEvent::new(SCRIPT, SCRIPT, SCRIPT, SCRIPT)
        .correlation_id(SCRIPT)
        .causation_id(SCRIPT)
        .trace_id(SCRIPT);
    db.append_event(event).await;
    run_once(users.worker(&db)).await;
    let stops = Model::new("stops");
    stops.fail_on(SCRIPT, true);
    run_once(stops.worker(&db)).await;
    let waits = || read_model("waits").knows(|format| format.event_type != SCRIPT);
    run_once(db.worker().consumer(waits()).release(SCRIPT)).await;
    db.execute(&format!(
        "UPDATE consumer_worker SET host = '{}'",
        SCRIPT.replace('\'', "''")
    ))
    .await;
    let both = || {
        let builder = users.worker(&db).release(SCRIPT);
        builder.scoped_consumer(stops.clone()).consumer(waits())
    };
    run_once(both()).await;
    let served = Served::operable(both()).await;

    let encoded = SCRIPT.bytes().fold(String::new(), |encoded, byte| {
        format!("{encoded}%{byte:02X}")
    });
    for path in [
        "/".to_owned(),
        format!("/?q={encoded}"),
        "/consumers/stops/1".to_owned(),
        "/consumers/waits/1".to_owned(),
        "/consumers/users/1/parked".to_owned(),
        format!("/consumers/{encoded}/1"),
        "/events".to_owned(),
        format!("/events?type={encoded}&id={encoded}&event={encoded}"),
        format!("/events?correlation={encoded}&causation={encoded}"),
        "/events/1".to_owned(),
        "/events/1?consumer=stops".to_owned(),
        format!("/events/1?consumer={encoded}"),
        "/processes".to_owned(),
    ] {
        let answer = served.get(&path).await;
        let page = answer.text();
        assert!(page.contains("<!DOCTYPE html>"), "{path}: {page}");
        assert!(
            !page.contains("<script>") && !page.contains("<img"),
            "{path}: {page}"
        );
        assert!(!page.contains("alert(1)\""), "{path}: {page}");
    }
    let stopped = served.page("/consumers/stops/1").await;
    assert!(
        stopped.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{stopped}"
    );
}

async fn a_payload_of_10_mb_is_cut_and_can_be_downloaded<DB: TestDatabase>(db: Database<DB>) {
    let large = "é".repeat(5 << 20);
    let position = db.append_event(renamed("large", large.clone())).await;
    let served = Served::of(&db).await;

    let page = served.page(&format!("/events/{position}")).await;
    assert!(page.len() < 200_000, "{} bytes", page.len());
    assert!(page.contains("10.5 MB") && page.contains(", cut"));
    let download = format!("<a href=\"/events/{position}/payload\" download>Download</a>");
    assert!(page.contains(&download), "{page}");
    let list = served.page("/events").await;
    assert!(list.contains("10.5 MB") && list.len() < 50_000, "{list}");

    let file = served.get(&format!("/events/{position}/payload")).await;
    assert_eq!(file.status, 200);
    assert!(file.body == large.as_bytes());
    assert_eq!(
        file.header("content-type"),
        Some("application/octet-stream")
    );
    let users = Model::new("users");
    users.fail_on("large", true);
    run_once(users.worker(&db)).await;
    let served = Served::read_only(users.worker(&db)).await;
    let page = served.page("/consumers/users/1").await;
    assert!(page.len() < 200_000, "{} bytes", page.len());
    assert!(page.contains("10.5 MB, cut") && page.contains(&download));
    let disposition = file.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment"), "{disposition}");
    let policy = file.header("content-security-policy").unwrap();
    assert!(policy.contains("sandbox"), "{policy}");
}

async fn a_payload_that_is_no_text_is_dumped<DB: TestDatabase>(db: Database<DB>) {
    let position = db.append_event(renamed("bytes", b"<b>\xff\xfe\x00")).await;
    let page = Served::of(&db)
        .await
        .page(&format!("/events/{position}"))
        .await;
    assert!(page.contains("3c 62 3e ff fe 00"), "{page}");
    assert!(
        page.contains("&lt;b&gt;...") && page.contains("bytes that are not text"),
        "{page}"
    );
}

async fn an_event_that_no_release_knows_is_shown_with_its_content<DB: TestDatabase>(
    db: Database<DB>,
) {
    let orders = || read_model("orders").knows(|format| format.event_type != "Refunded");
    let refunded = NewEvent::new("Order", "o-1", "Refunded", r#"{"cents":1250}"#);
    db.append_event(refunded).await;
    run_once(db.worker().consumer(orders())).await;
    let served = Served::operable(db.worker().consumer(orders())).await;
    let overview = served.page("/").await;
    for text in [
        "needs attention",
        "waiting for release",
        "a release that knows Refunded",
    ] {
        assert!(overview.contains(text), "no `{text}` in {overview}");
    }
    let page = served.page("/consumers/orders/1").await;
    for text in [
        "Waits at event ",
        "href=\"/events/1\"",
        "&quot;cents&quot;: 1250",
        "name its type in </bdi><code><bdi>ignore</bdi></code>",
        "Park event 1",
        "Skip event 1",
    ] {
        assert!(page.contains(text), "no `{text}` in {page}");
    }
}

async fn a_consumer_that_is_held_back_says_why<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    let named = |name: &'static str| {
        Model::new(name)
            .scope(&["User"])
            .formerly(Formerly::Unstated)
    };
    run_once(named("users").worker(&db)).await;
    db.leave_alone().await;
    let served = Served::operable(named("accounts").worker(&db)).await;
    let overview = served.page("/").await;
    assert!(
        overview.contains("held back") && overview.contains("2 consumers"),
        "{overview}"
    );
    let page = served.page("/consumers/accounts/1").await;
    assert!(
        page.contains("<code><bdi>rename users accounts</bdi></code>"),
        "{page}"
    );
    assert!(!page.contains("Pause"), "it has nothing to pause: {page}");
}

async fn a_consumer_without_a_worker_needs_attention<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append("User", ["ada"]).await;
    run_once(users.worker(&db)).await;
    db.append("User", ["bob"]).await;
    let (rows, events) = if DB::NAME == "SQLite" {
        ("updated_at - 600000", "datetime('now', '-10 minutes')")
    } else {
        (
            "now() - interval '10 minutes'",
            "now() - interval '10 minutes'",
        )
    };
    db.execute(&format!("UPDATE consumer_progress SET updated_at = {rows}"))
        .await;
    db.execute(&format!("UPDATE events SET created_at = {events}"))
        .await;
    let served = Served::read_only(users.worker(&db)).await;
    // SQLite does not tell which claims are held.
    let (state, why) = match DB::NAME {
        "SQLite" => (
            ">no batch ended</span>",
            "and no batch has ended for as long",
        ),
        _ => (">no worker</span>", "and no worker has claimed them"),
    };
    for path in ["/", "/consumers/users/1"] {
        let page = served.page(path).await;
        assert!(
            page.contains(state) && page.contains("events have waited 10 min"),
            "{path}: {page}"
        );
        assert!(page.contains(why), "{path}: {page}");
        assert!(!page.contains(">running<"), "{path}: {page}");
    }
    // The control: one that handles the event.
    run_once(users.worker(&db)).await;
    let served = Served::read_only(users.worker(&db)).await;
    let page = served.page("/").await;
    assert!(
        page.contains(">running<") && page.contains("no problems"),
        "{page}"
    );
}

/// SQLite tells of a batch without `tx` only.
async fn a_batch_in_progress_is_shown_before_it_ends<DB: TestDatabase>(db: Database<DB>) {
    let gate = Arc::new(Semaphore::new(0));
    let entered = Arc::new(Notify::new());
    let (own_gate, own_entered) = (Arc::clone(&gate), Arc::clone(&entered));
    let users = consumer("users", move |_, _, _| {
        let (gate, entered) = (Arc::clone(&own_gate), Arc::clone(&own_entered));
        Box::pin(async move {
            entered.notify_one();
            gate.acquire().await?.forget();
            Ok(())
        })
    });
    db.append("User", ["ada"]).await;
    let worker = Running::start(db.worker().consumer(users.without_tx()));
    patiently("the handler waits", entered.notified()).await;
    let served = Served::of(&db).await;
    let pages = ["/", "/consumers/users/1", "/processes"];
    let shown = ["in a batch ", "In progress", "in a batch "];
    for (path, shown) in pages.into_iter().zip(shown) {
        let page = served.page(path).await;
        assert!(page.contains(shown), "{path}: {page}");
    }
    gate.add_permits(1);
    patiently("it catches up", worker.caught_up())
        .await
        .unwrap();
    worker.stop().await;
    // The control.
    let served = Served::of(&db).await;
    for (path, shown) in pages.into_iter().zip(shown) {
        let page = served.page(path).await;
        assert!(!page.contains(shown), "{path}: {page}");
    }
}

async fn each_failing_segment_shows_its_event_and_error<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").settings(Settings::default().retries(0).segments(8));
    let mut ids: Vec<String> = (0..200).map(|index| format!("u-{index}")).collect();
    ids.sort_by_key(|id| aggregate_slice(id) / 128);
    ids.dedup_by_key(|id| aggregate_slice(id) / 128);
    assert_eq!(ids.len(), 8);
    let (failing, others) = ids.split_at(6);
    for id in failing {
        users.fail_on(id, true);
    }
    db.append("User", failing).await;
    db.append("User", others).await;
    run_once(users.worker(&db)).await;
    let served = Served::operable(users.worker(&db)).await;
    let page = served.page("/consumers/users/1").await;
    let (_, segments) = page.split_once("id=\"segments\"").unwrap();
    for (index, id) in failing.iter().enumerate() {
        let row = format!(
            "href=\"/events/{0}\">{0}</a>: <bdi>cannot handle {id}</bdi>",
            index + 1
        );
        assert!(segments.contains(&row), "no `{row}` in {segments}");
    }
    assert_eq!(segments.matches("cannot handle").count(), 6, "{segments}");
    // The forms are bounded, and each works.
    let forms = |action: &str| {
        page.matches(&format!("/consumers/users/1/{action}\""))
            .count()
    };
    assert_eq!((forms("park"), forms("skip")), (4, 4), "{page}");
    for position in 1..=6 {
        let token = served.token("/consumers/users/1").await;
        let form = format!("token={token}&position={position}");
        let parked = served.post("/consumers/users/1/park", &form).await;
        assert_eq!(parked.status, 303, "{}", parked.text());
    }
    assert_eq!(db.parked("users").await, [1, 2, 3, 4, 5, 6]);
}

async fn an_event_that_cannot_be_decoded_shows_the_rest<DB: TestDatabase>(db: Database<DB>) {
    let event = renamed("ada", r#"{"name":"Ada"}"#).correlation_id("c-1");
    db.append_event(event).await;
    let damage = match DB::NAME {
        "SQLite" => "event_id = 'no UUID'",
        _ => "created_at = 'infinity'",
    };
    db.execute(&format!("UPDATE events SET {damage}")).await;
    let users = Model::new("users");
    run_once(users.worker(&db)).await;
    let served = Served::read_only(users.worker(&db)).await;
    for path in ["/events/1", "/consumers/users/1"] {
        let page = served.page(path).await;
        for text in [
            "The event cannot be decoded",
            "&quot;name&quot;: &quot;Ada&quot;",
            "Renamed",
            "/events/1/payload",
        ] {
            assert!(page.contains(text), "{path}: no `{text}` in {page}");
        }
    }
    let page = served.page("/events/1").await;
    assert!(
        page.contains("c-1") && page.contains("<dd>cannot be decoded"),
        "{page}"
    );
    let file = served.get("/events/1/payload").await;
    assert_eq!(file.text(), r#"{"name":"Ada"}"#);
}

async fn the_processes_and_releases_of_a_consumer_are_named<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").settings(Settings::default().segments(2));
    db.append("User", ["a", "b"]).await;
    run_once(users.worker(&db).release("2026.1")).await;
    db.append("User", ["a"]).await;
    run_once(users.worker(&db).release("2026.2")).await;
    let served = Served::read_only(users.worker(&db)).await;
    let process = format!("{} on ", std::process::id());
    for path in ["/", "/consumers/users/1", "/processes"] {
        let page = served.page(path).await;
        assert!(page.contains(&process), "{path}: {page}");
    }
    for path in ["/consumers/users/1", "/processes"] {
        let page = served.page(path).await;
        assert!(
            page.contains("2026.1") && page.contains("2026.2"),
            "{path}: {page}"
        );
    }
    let page = served.page("/processes").await;
    let (latest, before) = (page.find("2026.2").unwrap(), page.find("2026.1").unwrap());
    assert!(latest < before, "{page}");
}

async fn a_read_only_page_names_the_commands_that_do_the_same<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    users.fail_on("bad", true);
    db.append("User", ["bad"]).await;
    run_once(users.worker(&db)).await;
    let served = Served::read_only(users.worker(&db)).await;
    let page = served.page("/consumers/users/1").await;
    for command in [
        "resume users",
        "park users 1",
        "skip users 1",
        "rebuild users",
    ] {
        assert!(page.contains(&format!("<code>{command}</code>")), "{page}");
    }
}

/// The positions that a page of events lists, in its order.
fn listed(page: &str) -> Vec<i64> {
    let rows = page.split("<th class=\"number\" scope=\"row\">").skip(1);
    let position = |row: &str| {
        let (_, after) = row.split_once("/events/")?;
        after.split('"').next()?.parse().ok()
    };
    rows.filter_map(position).collect()
}

/// Where a link of a page leads.
fn link(page: &str, text: &str) -> Option<String> {
    let (before, _) = page.split_once(&format!("\">{text}</a>"))?;
    let (_, address) = before.rsplit_once("href=\"")?;
    Some(address.replace("&amp;", "&"))
}

async fn events_are_paged_by_keys_in_both_directions<DB: TestDatabase>(db: Database<DB>) {
    let mut expected = db.append_many(120).await;
    expected.reverse();
    let served = Served::of(&db).await;
    for filter in ["", "?type=User", "?type=User&id=u-1"] {
        let mut seen = Vec::new();
        let mut pages = vec![served.page(&format!("/events{filter}")).await];
        while let Some(earlier) = link(pages.last().unwrap(), "Earlier") {
            pages.push(served.page(&earlier).await);
        }
        for page in &pages {
            seen.extend(listed(page));
        }
        assert_eq!((seen, pages.len()), (expected.clone(), 3), "{filter}");

        let mut back = pages.pop().unwrap();
        while let Some(later) = link(&back, "Later") {
            back = served.page(&later).await;
        }
        assert_eq!(listed(&back)[0], expected[0], "{filter}");
    }
}

async fn events_of_a_type_or_an_aggregate_are_found<DB: TestDatabase>(db: Database<DB>) {
    let first = db.append("Order", ["a/b?c", "o"]).await;
    let users = db.append("User", ["a/b?c"]).await;
    let again = db.append("Order", ["a/b?c"]).await;
    let served = Served::of(&db).await;
    let listed_at = async |path: &str| listed(&served.page(path).await);
    assert_eq!(listed_at("/events?type=User").await, users);
    assert_eq!(
        listed_at("/events?type=Order&id=a%2Fb%3Fc").await,
        [again[0], first[0]]
    );
    assert_eq!(listed_at("/events?type=Nothing").await, [0; 0]);
    assert_eq!(listed_at("/events?type=a%00b").await, [0; 0]);
    let alone = served.page("/events?id=o").await;
    assert!(alone.contains("enter the type too"), "{alone}");
    let to_position = served.get("/events?position=2").await;
    assert_eq!(
        (to_position.status, to_position.header("location")),
        (303, Some("/events/2"))
    );
}

async fn what_no_index_finds_is_searched_for_step_by_step<DB: TestDatabase>(db: Database<DB>) {
    let rare = db.append_event(renamed("u", "{}")).await;
    db.append_many(6_000).await;
    let served = Served::of(&db).await;
    let first = served.page("/events?event=Renamed").await;
    let none = "No match in the 5,000 events searched; there are more to search.";
    assert!(first.contains(none), "{first}");
    assert!(!first.contains("No event matches"), "{first}");
    assert_eq!(listed(&first), [0; 0]);
    let second = served.page(&link(&first, "Earlier").unwrap()).await;
    assert_eq!(listed(&second), [rare]);
    assert_eq!(link(&second, "Earlier"), None);
    // The control: a search that has come to its end.
    let nothing = served.page("/events?event=Nothing").await;
    let nothing = served.page(&link(&nothing, "Earlier").unwrap()).await;
    assert!(nothing.contains("No event matches"), "{nothing}");
    // What is found on the way is shown with how far the search came.
    let changed = served.page("/events?event=Changed&after=0").await;
    assert_eq!(listed(&changed).len(), 50);
}

async fn an_event_leads_to_its_cause_effects_and_relatives<DB: TestDatabase>(db: Database<DB>) {
    let cause = db
        .append_events(&[NewEvent::new("Order", "o", "Placed", "{}").correlation_id("c-1")])
        .await;
    let cause = &cause[0];
    let id = cause.event_id.to_string();
    db.append("Order", ["other"]).await;
    let effect = NewEvent::new("Mail", "m", "Sent", "{}")
        .causation_id(id.as_str())
        .correlation_id("c-1");
    let effect = db.append_event(effect).await;
    let served = Served::of(&db).await;

    let page = served.page(&format!("/events/{effect}")).await;
    assert!(
        page.contains(&format!("href=\"/events/by-id/{id}\"")),
        "{page}"
    );
    let found = served.get(&format!("/events/by-id/{id}")).await;
    let expected = format!("/events/{}", cause.global_position);
    assert_eq!(
        (found.status, found.header("location")),
        (303, Some(expected.as_str()))
    );
    let unknown = served
        .get("/events/by-id/00000000-0000-4000-8000-000000000000")
        .await;
    assert_eq!(unknown.status, 404);

    let page = served.page(&expected).await;
    let effects = served.page(&link(&page, "find its effects").unwrap()).await;
    assert_eq!(listed(&effects), [effect]);
    let (_, after) = page.split_once("/events?correlation=").unwrap();
    let relatives = format!("/events?correlation={}", after.split('"').next().unwrap());
    let relatives = served.page(&relatives.replace("&amp;", "&")).await;
    assert_eq!(listed(&relatives), [effect, cause.global_position]);
}

async fn an_event_tells_what_a_consumer_made_of_it<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").scope(&["User"]);
    db.append("User", ["ada"]).await;
    db.append("Order", ["o"]).await;
    run_once(users.worker(&db)).await;
    let served = Served::read_only(users.worker(&db)).await;
    let handled = served.page("/events/1?consumer=users&version=1").await;
    assert!(
        handled.contains("handled, or skipped") && handled.contains("Is replay</dt><dd>yes"),
        "{handled}"
    );
    let other = served.page("/events/2?consumer=users").await;
    assert!(
        other.contains("its aggregate type is not in the scope"),
        "{other}"
    );
    let unknown = served.page("/events/2?consumer=user").await;
    assert!(
        unknown.contains("there is no consumer </bdi><code><bdi>user</bdi></code>"),
        "{unknown}"
    );
}

/// A consumer that parks the events of some aggregates.
fn parking(name: &'static str, failing: &[&str]) -> Model {
    let model = Model::new(name).settings(Settings::default().retries(0).on_error(OnError::Park));
    for id in failing {
        model.fail_on(id, true);
    }
    model
}

async fn parked_events_are_shown_by_aggregate_and_in_order<DB: TestDatabase>(db: Database<DB>) {
    let users = parking("users", &["a", "b"]);
    db.append("User", ["a", "b", "a", "c"]).await;
    run_once(users.worker(&db)).await;
    let served = Served::read_only(users.worker(&db)).await;
    let page = served.page("/consumers/users/1/parked").await;
    let places: Vec<_> = ["/events/1\"", "/events/3\"", "/events/2\""]
        .map(|at| page.find(at))
        .into();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{page}"
    );
    assert!(
        page.contains("cannot handle a") && page.contains("1 later event behind"),
        "{page}"
    );
    assert!(!page.contains("/events/4\""), "{page}");
    let overview = served.page("/").await;
    assert!(overview.contains("3 parked events"), "{overview}");
}

async fn a_thousand_parked_events_are_paged<DB: TestDatabase>(db: Database<DB>) {
    let users = parking("users", &["u-1"]);
    db.append_many(1_000).await;
    run_once(users.worker(&db)).await;
    let served = Served::read_only(users.worker(&db)).await;
    let mut page = served.page("/consumers/users/1/parked").await;
    let mut seen = 0;
    loop {
        seen += page.matches("<li>").count();
        match link(&page, "Later parked events") {
            Some(later) => page = served.page(&later).await,
            None => break,
        }
    }
    assert_eq!(seen, 1_000);
}

async fn versions_are_shown_side_by_side<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(3).await;
    let users = Model::new("users");
    run_once(users.worker(&db)).await;
    let second = consumer::Registered::scoped(users.clone()).version(2);
    let builder = || consumer::Worker::builder(db.store.clone()).registered(second.clone());
    let served = Served::read_only(builder()).await;
    let overview = served.page("/").await;
    assert!(
        overview.contains("/consumers/users/1\"") && overview.contains("/consumers/users/2\""),
        "{overview}"
    );
    run_once(builder()).await;
    let served = Served::operable(builder()).await;
    let page = served.page("/consumers/users/2").await;
    assert!(
        page.contains("v1 active") && page.contains("Activate this version"),
        "{page}"
    );
    let active = served.page("/consumers/users/1").await;
    assert!(!active.contains("Activate this version"), "{active}");
}

async fn a_dashboard_under_a_path_links_below_it<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    users.fail_on("bad", true);
    db.append("User", ["bad"]).await;
    run_once(users.worker(&db)).await;
    let options = DashboardOptions::new().authorize(|_, _| true);
    let own = router(users.worker(&db).admin().unwrap(), options);
    let served = Served::router(Router::new().nest("/tenants/{tenant}/ops", own)).await;
    let base = "/tenants/a%20b/ops";
    let mut open = vec![base.to_owned()];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(path) = open.pop() {
        if !seen.insert(path.clone()) || seen.len() > 60 {
            continue;
        }
        let answer = served.get(&path).await;
        assert!(
            [200, 303].contains(&answer.status),
            "{path}: {}",
            answer.text()
        );
        let page = answer.text();
        for attribute in ["href=\"", "src=\"", "action=\""] {
            for address in page
                .split(attribute)
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
            {
                let is_below = address.starts_with(base) || address == "#main";
                assert!(is_below, "{path} leads to {address}");
                if attribute != "action=\"" && address != "#main" {
                    open.push(address.replace("&amp;", "&"));
                }
            }
        }
    }
    assert!(seen.len() > 8, "{seen:?}");
}

async fn what_is_not_there_is_said_to_be_missing<DB: TestDatabase>(db: Database<DB>) {
    let served = Served::of(&db).await;
    for path in [
        "/consumers/none/1",
        "/events/7",
        "/nothing",
        "/events/7/payload",
    ] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text().contains("<main"), "{path}: {}", answer.text());
    }
    for (path, status) in [
        ("/events/first", 400),
        ("/events?before=x", 400),
        ("/consumers/users/one", 400),
        ("/consumers/users/1/pause", 405),
    ] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        let text = answer.text();
        assert!(
            text.contains("<main") && text.contains("not one of this dashboard"),
            "{path}: {text}"
        );
    }
    let overview = served.page("/").await;
    assert!(
        overview.contains("This program has no consumers, and none has run on this log"),
        "{overview}"
    );
    let none = |query: &'static str| served.page(query);
    assert!(none("/events").await.contains("The log has no events yet"));
    assert!(none("/events?type=User").await.contains("No event matches"));
    assert!(none("/events?after=5").await.contains("no more events"));
}

async fn pages_need_no_code_of_the_consumers<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append("User", ["ada"]).await;
    run_once(users.worker(&db)).await;
    let served = Served::of(&db).await;
    let page = served.page("/consumers/users/1").await;
    assert!(page.contains("does not contain the code"), "{page}");
}

async fn without_tables_the_pages_say_so<DB: TestDatabase>(db: Database<DB>) {
    let served = Served::of(&db).await;
    let page = served.page("/").await;
    assert!(
        page.contains("could not be read") && page.contains("migrate"),
        "{page}"
    );
    let events = served.get("/events").await;
    assert_eq!(events.status, 503);
    assert!(events.text().contains("migrate"), "{}", events.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_without_segments_shows_no_segments_table() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    let model = Model::new("users").settings(Settings::default().segments(64));
    db.append("User", ["ada"]).await;
    run_once(model.worker(&db)).await;
    let served = Served::read_only(model.worker(&db)).await;
    let page = served.page("/consumers/users/1").await;
    assert!(page.contains("64 segments"), "{page}");
    assert_eq!(page.matches("data-label=\"Checkpoint\"").count(), 64);
    let overview = served.page("/").await;
    assert_eq!(
        overview.matches("class=\"rest\"").count(),
        65,
        "64 segments and the log"
    );
}

/// A blocked frontier shows who blocks it, and how far consumers are behind it and the head.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_frontier_names_its_blocker() {
    let db = Database::<Postgres>::fresh().await;
    let users = Model::new("users");
    db.append("User", ["ada"]).await;
    run_once(users.worker(&db)).await;
    let open = db.left_open("import <b>").await;
    db.append("User", ["bob", "eve"]).await;
    let served = Served::read_only(users.worker(&db)).await;
    let overview = served.page("/").await;
    assert!(
        overview.contains("Blocked by") && overview.contains("app=import &lt;b&gt;"),
        "{overview}"
    );
    assert!(overview.contains("positions</dd>"), "{overview}");
    let page = served.page("/consumers/users/1").await;
    assert!(page.contains("Lag to the frontier"), "{page}");
    let status = users.worker(&db).admin().unwrap().status().await.unwrap();
    let one = status.consumer("users").unwrap();
    assert_eq!((one.lag.events, one.settled_lag.events), (2, 0));
    open.commit().await.unwrap();
}

/// Ten viewers with several windows cost what one costs.
#[tokio::test(flavor = "multi_thread")]
async fn ten_viewers_share_one_look_at_the_state() {
    let counting = Counting::start().await;
    let db = Database::on(&counting.server).await;
    let users = Model::new("users");
    db.append_many(50).await;
    run_once(users.worker(&db)).await;
    let served = Served::read_only(users.worker(&db)).await;
    served.page("/").await;
    counting.forget().await;
    let looks = async |viewers: usize| {
        counting.forget().await;
        let live = (0..viewers).map(|_| async {
            for serial in 0..2 {
                let request = consumer_tests::http::HttpRequest::get(served.address, "/live");
                let stream = request
                    .header("last-event-id", &serial.to_string())
                    .send()
                    .await;
                assert_eq!(stream.status, 200);
                assert_eq!(stream.header("content-type"), Some("text/event-stream"));
                served.page("/").await;
            }
        });
        let began = std::time::Instant::now();
        futures_util::future::join_all(live).await;
        let calls = counting.calls(&db, "parked_aggregates").await;
        (calls, began.elapsed())
    };
    let (calls, took) = looks(10).await;
    // One look in two seconds, however many ask.
    let most = 2 + i64::try_from(took.as_secs() / 2).unwrap();
    assert!(calls <= most, "{calls} looks by ten viewers in {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_tells_of_each_new_look() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    let served = Served::of(&db).await;
    let next = async |last: &str| {
        let request = consumer_tests::http::HttpRequest::get(served.address, "/live");
        let text = request.header("last-event-id", last).send().await.text();
        let (_, serial) = text.split_once("data: ").unwrap();
        serial.trim().to_owned()
    };
    let first = next("0").await;
    let second = next(&first).await;
    assert_ne!(first, second);
}

/// A handler that is declared, with its source.
mod declared {
    use consumer::prelude::*;

    #[derive(Default)]
    pub(super) struct Renames;

    #[consumer(name = "dashboard.renames", aggregates = ["User"])]
    impl Renames {
        #[on("Renamed")]
        async fn renamed(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
            Ok(())
        }

        #[on(other)]
        async fn rest(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
            Ok(())
        }
    }

    #[derive(Default)]
    pub(super) struct Mails;

    #[consumer(name = "dashboard.mails", aggregates = ["User"], ignore = ["Changed"])]
    impl Mails {
        #[on("Renamed")]
        async fn renamed(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_handler_takes_was_passed_over() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    db.append_event(renamed("u", "{}")).await;
    db.append("User", ["u"]).await;
    run_once(db.worker().consumer(declared::Mails)).await;
    let served = Served::read_only(db.worker().consumer(declared::Mails)).await;
    let passed = served.page("/events/2?consumer=dashboard.mails").await;
    assert!(
        passed.contains("passed over: no handler of this program takes it"),
        "{passed}"
    );
    assert!(passed.contains("none takes it"), "{passed}");
    // The control: one that a handler takes.
    let handled = served.page("/events/1?consumer=dashboard.mails").await;
    assert!(
        handled.contains("handled, or skipped") && !handled.contains("passed over"),
        "{handled}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_consumer_shows_its_handlers_and_their_source() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    db.append_event(renamed("u", "{}")).await;
    let served = Served::read_only(db.worker().consumer(declared::Renames)).await;
    let page = served.page("/consumers/dashboard.renames/1").await;
    for text in [
        "renamed",
        "rest",
        "every other",
        "Renamed",
        "tests/dashboard.rs:",
    ] {
        assert!(page.contains(text), "no `{text}` in {page}");
    }
    let event = served.page("/events/1?consumer=dashboard.renames").await;
    assert!(
        event.contains("not handled yet") && event.contains("<code>renamed</code>"),
        "{event}"
    );
    assert!(!event.contains("<code>rest</code>"), "{event}");
}

/// The closure's error, for a chain of causes.
#[derive(Debug)]
struct Outer(std::io::Error);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot send the mail")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_of_an_error_is_shown_whole() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    db.append("User", ["ada"]).await;
    let mails = || {
        consumer("mails", |_, _, _| {
            Box::pin(async { Err(Outer(std::io::Error::other("the server is gone")).into()) })
        })
        .settings(Settings::default().retries(0))
    };
    run_once(db.worker().consumer(mails())).await;
    let served = Served::read_only(db.worker().consumer(mails())).await;
    let page = served.page("/consumers/mails/1").await;
    assert!(
        page.contains("cannot send the mail: the server is gone"),
        "{page}"
    );
}
