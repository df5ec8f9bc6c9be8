//! The pictures of the README: `tests/scripts/pictures.sh` makes them again.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use consumer::{NewEvent, OnError, Settings, Worker, WorkerBuilder};
use consumer_tests::{Browser, Database, Model, Screen, Served, run_once};
use sqlx::Sqlite;

const CONSUMERS: [&str; 6] = [
    "billing.invoices",
    "billing.payments",
    "notifications.mail",
    "orders.read_model",
    "search.index",
    "system.integration.publisher",
];

/// A shop in which an invoice cannot be made and two mails are parked.
async fn shop(db: &Database<Sqlite>) -> impl Fn() -> WorkerBuilder<Sqlite> {
    let models = CONSUMERS.map(|name| {
        let settings = Settings::default().retries(0);
        match name {
            "billing.invoices" => failing(Model::new(name).settings(settings), "order-712"),
            "notifications.mail" => {
                let settings = settings.on_error(OnError::Park);
                failing(Model::new(name).settings(settings), "order-31")
            }
            "orders.read_model" => Model::new(name).settings(settings.segments(8)),
            _ => Model::new(name),
        }
    });
    let events = |from: u32, to: u32| async move {
        for index in from..to {
            let payload = format!(
                r#"{{"order":"order-{index}","total":{}.00,"currency":"EUR"}}"#,
                20 + index % 80
            );
            let event = NewEvent::new("Order", format!("order-{index}"), "OrderPlaced", payload);
            db.append_event(event).await;
        }
    };
    events(0, 700).await;
    let store = db.store.clone();
    let builder = move || {
        let builder = Worker::builder(store.clone());
        models.iter().fold(builder, |builder, model| {
            builder.scoped_consumer(model.clone())
        })
    };
    run_once(builder()).await;
    events(700, 900).await;
    db.append("Order", ["order-31"]).await;
    run_once(builder()).await;
    builder
}

fn failing(model: Model, id: &str) -> Model {
    model.fail_on(id, true);
    model
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pictures_of_the_readme_can_be_made_again() {
    if !Browser::is_installed() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let out = std::env::var_os("README_PICTURES").map(PathBuf::from);
    let out = out.unwrap_or_else(|| scratch.path().to_owned());
    let db = Database::<Sqlite>::fresh().await;
    let builder = shop(&db).await;
    let served = Served::operable(builder()).await;
    let browser = Browser::start().await;
    for (name, is_dark) in [("dashboard-light", false), ("dashboard-dark", true)] {
        browser
            .show_on(Screen {
                width: 1280,
                is_dark,
            })
            .await;
        browser.open(&format!("http://{}/", served.address)).await;
        browser.shows("needs attention").await;
        let picture = browser.picture(720).await;
        assert!(picture.starts_with(b"\x89PNG"));
        std::fs::write(out.join(format!("{name}.png")), picture).unwrap();
    }
    let page = scratch.path().join("status.html");
    std::fs::write(&page, as_page(&terminal(&db))).unwrap();
    browser
        .show_on(Screen {
            width: 760,
            is_dark: true,
        })
        .await;
    browser.open(&format!("file://{}", page.display())).await;
    browser.shows("billing.invoices").await;
    std::fs::write(out.join("status.png"), browser.picture(400).await).unwrap();
}

/// The last screen that `status --watch` draws on a terminal of 92 columns.
fn terminal(db: &Database<Sqlite>) -> String {
    let program = env!("CARGO_BIN_EXE_test_operator");
    let inside = format!("stty cols 92 rows 24; exec timeout 4 {program} consumers status --watch");
    let output = Command::new("script")
        .args(["-qec", &inside, "/dev/null"])
        .env("TEST_OPERATOR_URL", &db.url)
        .env("TEST_CONSUMERS", CONSUMERS.join(","))
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let (_, last) = text.rsplit_once("\x1b[H\x1b[2J").expect("a screen");
    last.to_owned()
}

/// A page that shows what a terminal would.
fn as_page(screen: &str) -> String {
    let mut html = String::new();
    let mut parts = screen.split("\x1b[");
    html.push_str(&escaped(parts.next().unwrap_or_default()));
    for part in parts {
        let (codes, text) = part.split_once('m').unwrap_or(("", part));
        html.push_str("</span><span class=\"");
        html.push_str(match codes.rsplit(';').next().unwrap_or_default() {
            "1" => "bold",
            "9" if codes.contains("38;5;9") => "red",
            "10" if codes.contains("38;5;10") => "green",
            "11" if codes.contains("38;5;11") => "yellow",
            "14" if codes.contains("38;5;14") => "cyan",
            _ => "plain",
        });
        html.push_str("\">");
        html.push_str(&escaped(text));
    }
    format!(
        "<!DOCTYPE html><meta charset=utf-8><style>
         body {{ margin: 0; padding: 16px 20px; background: #14171b; color: #d8dce1; }}
         pre {{ margin: 0; font: 13px/1.5 'DejaVu Sans Mono', 'Liberation Mono', monospace; white-space: pre-wrap; }}
         .bold {{ font-weight: bold; }} .red {{ color: #f28b85; }} .green {{ color: #74c893; }}
         .yellow {{ color: #e5b457; }} .cyan {{ color: #7fc4d4; }}
         </style><pre><span class=plain>{html}</span></pre>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
