//! Every page and every screen of the command line, of each filling, in the widths and colours that people use.
//!
//! `tests/scripts/pictures.sh all DIRECTORY` writes them all, for people to look at.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;
use consumer::cli::Cli;
use consumer_tests::{
    Browser, Database, Filling, Model, Piped, Screen, Served, Terminal, plain, run_once,
};
use serde_json::Value;
use sqlx::{Postgres, Sqlite, Transaction};

/// Where to write what is looked at, if anywhere.
fn directory() -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("SCREENS")?);
    std::fs::create_dir_all(&directory).unwrap();
    Some(directory)
}

/// A consumer that is declared, with its handlers, and a read model of its own.
mod declared {
    use consumer::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Event, Serialize, Deserialize)]
    #[event(aggregate = "Seat")]
    pub(super) struct Reserved {
        by: String,
    }

    #[derive(Event, Serialize, Deserialize)]
    #[event(aggregate = "Seat")]
    pub(super) struct Released;

    #[derive(ReadModel)]
    #[read_model(table = "seats")]
    pub(super) struct Seat {
        #[read_model(key)]
        id: String,
        by: String,
    }

    #[derive(Default)]
    pub(super) struct Seats;

    #[consumer(name = "seats", aggregates = ["Seat"], read_model = Seat, formerly = none)]
    impl Seats {
        #[on]
        fn reserved(&self, event: Envelope<'_, Reserved>) -> Seat {
            let id = event.aggregate_id.clone();
            let by = event.payload.by;
            Seat { id, by }
        }

        #[on]
        fn released(&self, seat: &mut Option<Seat>, _event: Released) {
            *seat = None;
        }
    }
}

/// Pages to look at.
struct Pages {
    name: String,
    served: Served,
    paths: Vec<(&'static str, String)>,
    /// What keeps them as they are.
    _kept: Kept,
}

enum Kept {
    Filled(#[allow(dead_code)] Database<Sqlite>),
    Blocked(
        #[allow(dead_code)] Transaction<'static, Postgres>,
        #[allow(dead_code)] Database<Postgres>,
    ),
}

impl Pages {
    async fn of(filling: Filling) -> Self {
        let db = filling.database().await;
        let mut builder = filling.builder(db.store.clone());
        let mut paths = filling.pages();
        if filling == Filling::Normal {
            builder = builder.consumer(declared::Seats);
            paths.push(("declared", "/consumers/seats/1".to_owned()));
            let results = ["retried", "refused"].into_iter().zip(&RESULTS);
            paths.extend(results.map(|(name, result)| (name, result.address.to_owned())));
        }
        Self {
            name: filling.name().to_owned(),
            served: Served::operable(builder).await,
            paths,
            _kept: Kept::Filled(db),
        }
    }

    /// A log whose frontier is blocked, to which no form may be sent.
    async fn blocked() -> Self {
        let db = Database::<Postgres>::fresh().await;
        let users = Model::new("users");
        db.append("User", ["ada"]).await;
        run_once(users.worker(&db)).await;
        let open = db
            .left_open("nightly import of a supplier with a long name")
            .await;
        db.append("User", (0..40).map(|index| format!("u-{index}")))
            .await;
        Self {
            name: "blocked".to_owned(),
            served: Served::read_only(users.worker(&db)).await,
            paths: vec![
                ("overview", "/".to_owned()),
                ("consumer", "/consumers/users/1".to_owned()),
                ("event", "/events/3?consumer=users".to_owned()),
            ],
            _kept: Kept::Blocked(open, db),
        }
    }

    async fn all() -> Vec<Self> {
        let mut all = vec![Self::blocked().await];
        for filling in Filling::ALL {
            all.push(Self::of(filling).await);
        }
        all
    }

    /// Opens a page, or sends a form from one and shows the result.
    async fn open(&self, browser: &Browser, path: &str) {
        let sent = RESULTS.iter().find(|result| result.address == path);
        let page = sent.map_or(path, |result| result.page);
        let url = format!("http://{}{page}", self.served.address);
        browser.open(&url).await;
        if let Some(result) = sent {
            browser.run(&result.script()).await;
            browser.shows(result.shows).await;
        }
    }
}

/// The page that answers a form.
struct FormResult {
    /// A page with forms.
    page: &'static str,
    /// Where the form goes.
    address: &'static str,
    has_token: bool,
    shows: &'static str,
}

/// Of the normal filling.
const RESULTS: [FormResult; 2] = [
    FormResult {
        page: "/consumers/notifications.mail/1/parked",
        address: "/consumers/notifications.mail/1/retry-parked",
        has_token: true,
        shows: "0 events handled",
    },
    FormResult {
        page: "/consumers/billing.invoices/1",
        address: "/consumers/billing.invoices/1/pause",
        has_token: false,
        shows: "was sent before, or its page is too old",
    },
];

impl FormResult {
    /// Sends the form, with the token of the page or without one.
    fn script(&self) -> String {
        let (address, has_token) = (self.address, self.has_token);
        format!(
            "const form = document.createElement('form');
             Object.assign(form, {{ method: 'post', action: '{address}' }});
             if ({has_token}) form.append(document.querySelector('input[name=token]'));
             document.body.append(form);
             form.submit();"
        )
    }
}

/// axe-core, which `npm` fetches once into the target directory.
fn axe() -> Option<String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("axe");
    let file = directory.join("node_modules/axe-core/axe.min.js");
    if !file.exists() {
        std::fs::create_dir_all(&directory).unwrap();
        let mut npm = Command::new("npm");
        npm.args([
            "install",
            "--silent",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "axe-core@4",
        ]);
        let fetched = npm.current_dir(&directory).status();
        if !fetched.is_ok_and(|status| status.success()) {
            assert!(
                std::env::var_os("CI").is_none(),
                "`npm` cannot fetch axe-core"
            );
            println!("skipped: `npm` cannot fetch axe-core");
            return None;
        }
    }
    Some(std::fs::read_to_string(file).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_no_violation_on_any_page() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let Some(axe) = axe() else {
        return;
    };
    // The control: a page with a picture that nothing describes, in a language that it does not name.
    let broken = || async { axum::response::Html("<title>Broken</title><img src=x>") };
    let broken = axum::Router::new().route("/", axum::routing::get(broken));
    let broken = Served::router(broken).await;
    browser.open(&format!("http://{}/", broken.address)).await;
    let found = violations(&browser, &axe, "the broken page", 1280).await;
    for known in ["image-alt", "html-has-lang"] {
        let is_known = |violation: &String| violation.contains(known);
        assert!(found.iter().any(is_known), "no {known} in {found:#?}");
    }

    let all = Pages::all().await;
    let mut found = Vec::new();
    for screen in [(1280, false), (360, true)] {
        let (width, is_dark) = screen;
        browser.show_on(Screen { width, is_dark }).await;
        for pages in &all {
            for (name, path) in &pages.paths {
                pages.open(&browser, path).await;
                browser
                    .run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
                    .await;
                let name = format!("{} of {}", name, pages.name);
                found.extend(violations(&browser, &axe, &name, width).await);
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

async fn violations(browser: &Browser, axe: &str, page: &str, width: u32) -> Vec<String> {
    browser.run(axe).await;
    let run = "const done = arguments[0];
        axe.run().then((result) => done(result.violations.map((one) =>
            one.id + ': ' + one.nodes.slice(0, 2).map((node) => node.html + ' ' + node.failureSummary).join(' | '))))
          .catch((error) => done(['axe failed: ' + error]))";
    let found = browser.run_async(run).await;
    let found = found.as_array().expect("a list of violations");
    found
        .iter()
        .map(|one| format!("{page} at {width}: {one}"))
        .collect()
}

/// The parts of a page that are wider than the window, or whose text is cut off although nothing says so.
const CUT_OFF: &str = "
    const found = [];
    const wide = document.documentElement.scrollWidth;
    if (wide > innerWidth) found.push('the page is ' + wide + ' wide');
    for (const one of document.querySelectorAll('main *')) {
        const style = getComputedStyle(one);
        const box = one.getBoundingClientRect();
        // These say that there is more, or scroll.
        const around = one.parentElement.closest('pre, .why, .by');
        const isClipped = around !== null && getComputedStyle(around).overflowX !== 'visible';
        const isShown = box.width > 1 && !isClipped && !one.closest('.hidden, svg');
        if (isShown && box.right > innerWidth + 1) found.push('beyond the window: ' + one.outerHTML.slice(0, 120));
        const hides = style.overflowX !== 'visible' && style.textOverflow !== 'ellipsis' && style.overflowX !== 'auto';
        if (isShown && hides && one.scrollWidth > one.clientWidth + 1) found.push('cut off: ' + one.outerHTML.slice(0, 120));
    }
    return found.slice(0, 5)";

#[tokio::test(flavor = "multi_thread")]
async fn no_page_is_wider_than_its_window() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let mut found = Vec::new();
    for pages in Pages::all().await {
        for width in [360, 1280, 1920] {
            for is_dark in [false, true] {
                // Colours change no widths.
                if is_dark && directory().is_none() {
                    continue;
                }
                browser.show_on(Screen { width, is_dark }).await;
                for (name, path) in &pages.paths {
                    pages.open(&browser, path).await;
                    let cut_off = browser.run(CUT_OFF).await;
                    let cut_off = cut_off.as_array().cloned().unwrap_or_default();
                    let page = format!("{}-{name}-{width}", pages.name);
                    found.extend(cut_off.iter().map(|one| format!("{page}: {one}")));
                    let plural = wrong_plural(&browser.text().await);
                    found.extend(plural.map(|text| format!("{page}: {text}")));
                    if let Some(directory) = directory() {
                        let colour = if is_dark { "dark" } else { "light" };
                        let file = directory.join(format!("{page}-{colour}.png"));
                        std::fs::write(file, browser.picture(1_600).await).unwrap();
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// A single thing that is counted as several: `1 events`.
fn wrong_plural(text: &str) -> Option<String> {
    const THINGS: [&str; 10] = [
        "events",
        "consumers",
        "aggregates",
        "segments",
        "times",
        "positions",
        "others",
        "bytes",
        "releases",
        "versions",
    ];
    let words: Vec<&str> = text.split([' ', '\n', '\u{a0}']).collect();
    let pairs = words
        .windows(2)
        .filter(|pair| pair[0].trim_start_matches('(') == "1");
    let mut wrong =
        pairs.filter(|pair| THINGS.contains(&pair[1].trim_end_matches([',', '.', ':', ')'])));
    wrong.next().map(|pair| pair.join(" "))
}

/// Whether a text is for a terminal to obey, besides colours.
fn is_obeyed(text: &str) -> bool {
    let mut parts = text.split('\x1b').skip(1);
    let is_colour = |part: &str| {
        let code = part.strip_prefix('[').and_then(|part| part.split_once('m'));
        code.is_some_and(|(code, _)| {
            code.chars()
                .all(|char| char.is_ascii_digit() || char == ';')
        })
    };
    text.contains('\u{202e}') || parts.any(|part| !is_colour(part))
}

/// The screens of a filling on a terminal of this width.
async fn screens(filling: Filling, columns: u16) -> Vec<(&'static str, String)> {
    let db = filling.database().await;
    let variables = [
        ("TEST_OPERATOR_URL", db.url.as_str()),
        ("TEST_FILLING", filling.name()),
    ];
    let show = |line: &'static str| {
        let program = env!("CARGO_BIN_EXE_test_operator");
        let text = Terminal { columns }.run(&format!("{program} consumers {line}"), &variables);
        (line, text.replace('\r', ""))
    };
    filling.commands().into_iter().map(show).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_screen_of_the_commands_fits_its_terminal() {
    let mut found = Vec::new();
    for filling in Filling::ALL {
        for columns in [80, 140] {
            let screens = screens(filling, columns).await;
            let mut written = String::new();
            for (line, text) in &screens {
                written.push_str(&format!("$ {line}\n{text}\n"));
                let mut wrong = |what: String| {
                    found.push(format!("{} {columns} `{line}`: {what}", filling.name()));
                };
                // A progress bar is drawn over and over.
                if line.starts_with("rebuild") {
                    continue;
                }
                if is_obeyed(text) {
                    wrong(format!("{text:?}"));
                }
                if let Some(text) = wrong_plural(&plain(text)) {
                    wrong(text);
                }
                if let Some(row) = plain(text).lines().find(|row| ends_in_blanks(row)) {
                    wrong(format!("{row:?}"));
                }
                // Its types are as wide as a terminal.
                let is_wide = (filling, *line) == (Filling::Overfull, "unknown");
                let text = plain(text);
                for row in text
                    .lines()
                    .filter(|row| !is_wide && is_wide_row(row, columns))
                {
                    wrong(row.to_owned());
                }
            }
            if let Some(directory) = directory() {
                let file = directory.join(format!("{}-{columns}.txt", filling.name()));
                std::fs::write(file, written).unwrap();
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The screens that are drawn again and again, until they are interrupted.
#[tokio::test(flavor = "multi_thread")]
async fn every_screen_that_is_redrawn_fits_its_terminal() {
    for (filling, line) in [
        (Filling::Empty, "status --watch 0.2"),
        (Filling::Normal, "status --watch 0.2"),
        (Filling::Normal, "status --watch 0.2 --processes"),
        (Filling::Normal, "rebuild accounts --of-version 2 --watch"),
        (Filling::Overfull, "status --watch 0.2"),
    ] {
        let db = filling.database().await;
        let variables = [
            ("TEST_OPERATOR_URL", db.url.as_str()),
            ("TEST_FILLING", filling.name()),
        ];
        for columns in [80, 140] {
            let program = env!("CARGO_BIN_EXE_test_operator");
            let draw = |seconds: u32| {
                let command = format!("timeout -s INT {seconds} {program} consumers {line}");
                let text = Terminal { columns }.run(&command, &variables);
                let frames = text.split("\x1b[H\x1b[2J").skip(1);
                frames.last().map_or_else(|| plain(&text), plain)
            };
            let shown = if line.starts_with("rebuild") {
                " of 901, "
            } else {
                "the log is settled"
            };
            // A busy machine needs longer to start it.
            let drawn = Some(draw(4)).filter(|drawn| drawn.contains(shown));
            let drawn = drawn.unwrap_or_else(|| draw(20));
            assert!(drawn.contains(shown), "{columns} `{line}`: {drawn:?}");
            // A bar is drawn over itself.
            for row in drawn.split(['\n', '\r']) {
                let is_wide = is_wide_row(row, columns);
                assert!(!is_wide, "{} {columns} `{line}`: {row}", filling.name());
            }
        }
    }
}

/// Whether a line ends in blanks; a question does, so that the answer is not beside it.
fn ends_in_blanks(row: &str) -> bool {
    row.ends_with(' ') && !row.ends_with("[y/N] ")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_screen_in_a_pipe_is_for_other_programs() {
    let mut found = Vec::new();
    for filling in Filling::ALL {
        let db = filling.database().await;
        let mut written = String::new();
        for line in filling.commands() {
            let variables = [
                ("TEST_OPERATOR_URL", &*db.url),
                ("TEST_FILLING", filling.name()),
            ];
            let program = env!("CARGO_BIN_EXE_test_operator");
            let output = Piped::run(program, &format!("consumers {line}"), &variables);
            written.push_str(&output.to_string());
            let wrong = wrong_in_a_pipe(line, &output.stdout);
            found.extend(wrong.map(|what| format!("{} `{line}`: {what}", filling.name())));
        }
        if let Some(directory) = directory() {
            let file = directory.join(format!("{}-pipe.txt", filling.name()));
            std::fs::write(file, written).unwrap();
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// What other programs could not take from a pipe.
fn wrong_in_a_pipe(line: &str, output: &str) -> Option<String> {
    if line.ends_with("--json") {
        let json = serde_json::from_str::<Value>(output);
        let wrong = json.err().map(|error| format!("{error}: {output}"));
        return wrong.or_else(|| {
            output
                .lines()
                .find(|line| is_inexact(line))
                .map(str::to_owned)
        });
    }
    if output.contains('\x1b') {
        return Some(format!("{output:?}"));
    }
    let mut rows = output.lines();
    if let Some(row) = rows.clone().find(|row| row.ends_with(' ')) {
        return Some(format!("{row:?}"));
    }
    // A second line of a row has blanks below the columns before it.
    let is_wrapped = |row: &&str| {
        let first = row.split_whitespace().next().unwrap_or_default();
        row.starts_with("          ") && first.parse::<u64>().is_err()
    };
    rows.find(is_wrapped).map(str::to_owned)
}

/// Whether a line of JSON has a time with more digits than were measured.
fn is_inexact(line: &str) -> bool {
    let decimals = line.rsplit_once('.').map_or("", |(_, decimals)| decimals);
    let digits = decimals.trim_end_matches(',');
    let is_number = !digits.is_empty() && digits.chars().all(|char| char.is_ascii_digit());
    is_number && digits.len() > 3 && !line.contains("\"rate\"")
}

/// The command lines of every help.
fn helps(command: &clap::Command, line: &str) -> Vec<String> {
    let below = command.get_subcommands();
    let below = below.flat_map(|one| helps(one, &format!("{line} {}", one.get_name())));
    let own = [format!("{line} -h"), format!("{line} --help")];
    own.into_iter().chain(below).collect()
}

#[test]
fn every_help_fits_its_terminal() {
    let program = format!("{} consumers", env!("CARGO_BIN_EXE_test_operator"));
    let lines = helps(&Cli::command(), &program);
    assert!(lines.len() > 50, "{lines:?}");
    for columns in [80, 140] {
        let mut written = String::new();
        for line in &lines {
            let text = plain(&Terminal { columns }.run(line, &[])).replace('\r', "");
            written.push_str(&format!(
                "$ {}\n{text}\n",
                line.trim_start_matches(&*program)
            ));
            assert!(text.contains("Usage: "), "{line}: {text}");
            for row in text.lines() {
                let fits = row.chars().count() <= columns.into();
                assert!(fits && !row.ends_with(' '), "{columns} {line}: {row:?}");
            }
        }
        if let Some(directory) = directory() {
            std::fs::write(directory.join(format!("help-{columns}.txt")), written).unwrap();
        }
    }
}

/// Whether a line of a table is wider than the terminal. A sentence may be, since a terminal continues it in the
/// next line, and so may what has no narrower form.
fn is_wide_row(row: &str, columns: u16) -> bool {
    let row = row.trim_end();
    let cells = row.split("  ").filter(|cell| !cell.is_empty()).count();
    let has_wide = Filling::WIDE.iter().any(|wide| row.contains(wide));
    cells > 2 && !has_wide && row.chars().count() > columns.into()
}
