//! The pictures of the README: `tests/scripts/pictures.sh` makes them again.

use std::path::PathBuf;
use std::time::Duration;

use consumer_tests::{Browser, Database, Filling, Running, Screen, Served, Terminal, order};
use sqlx::Sqlite;

/// Appends some orders, more at some times than at others, for so many looks at the state.
async fn live(db: &Database<Sqlite>, served: &Served, looks: u32) {
    let mut next = 1_000;
    for look in 0..looks {
        for _ in 0..[12, 20, 31, 26, 38, 22, 14, 29, 44, 35][look as usize % 10] {
            db.append_event(order(next)).await;
            next += 1;
        }
        served.page("/").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pictures_of_the_readme_can_be_made_again() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let out = std::env::var_os("README_PICTURES").map(PathBuf::from);
    let looks = if out.is_some() { 20 } else { 1 };
    let out = out.unwrap_or_else(|| scratch.path().to_owned());
    let filling = Filling::Normal;
    let db = filling.database().await;
    let served = Served::operable(filling.builder(db.store.clone())).await;
    let worker = Running::start(filling.worker(db.store.clone()));
    live(&db, &served, looks).await;
    rename_hosts(&db).await;
    for (name, is_dark) in [("dashboard-light", false), ("dashboard-dark", true)] {
        let width = 1280;
        browser.show_on(Screen { width, is_dark }).await;
        browser.open(&format!("http://{}/", served.address)).await;
        browser.shows("need attention").await;
        browser.shows("on shop-").await;
        let picture = browser.picture(652).await;
        assert!(picture.starts_with(b"\x89PNG"));
        std::fs::write(out.join(format!("{name}.png")), picture).unwrap();
    }
    let url = db.url.clone();
    let screen = tokio::task::spawn_blocking(move || watched(&url));
    let (screen, ()) = tokio::join!(screen, live(&db, &served, 2));
    let page = scratch.path().join("status.html");
    std::fs::write(&page, as_page(&screen.unwrap())).unwrap();
    let (width, is_dark) = (860, true);
    browser.show_on(Screen { width, is_dark }).await;
    browser.open(&format!("file://{}", page.display())).await;
    browser.shows("billing.invoices").await;
    std::fs::write(out.join("status.png"), browser.picture(445).await).unwrap();
    worker.stop().await;
}

/// Names the processes as two in a data centre, instead of the one on this machine.
async fn rename_hosts(db: &Database<Sqlite>) {
    db.execute(
        "UPDATE consumer_worker
            SET host = CASE WHEN consumer < 'n' THEN 'shop-1' ELSE 'shop-2' END,
                pid = CASE WHEN consumer < 'n' THEN 4711 ELSE 386 END",
    )
    .await;
}

/// The last screen that `status --watch` draws on a terminal of 100 columns.
fn watched(url: &str) -> String {
    let program = env!("CARGO_BIN_EXE_test_operator");
    // A busy machine needs some seconds to start it.
    let line = format!("timeout 10 {program} consumers status --watch");
    let variables = [
        ("TEST_OPERATOR_URL", url),
        ("TEST_FILLING", Filling::Normal.name()),
    ];
    let text = Terminal { columns: 100 }
        .run(&line, &variables)
        .replace('\r', "");
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
