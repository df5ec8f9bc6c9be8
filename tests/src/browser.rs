//! A headless Chromium, driven through `chromedriver`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::HttpRequest;
use crate::{until, until_some};

/// The member that a reference to an element has.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How wide a window is, in CSS pixels, and its colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// The width.
    pub width: u32,
    /// Whether the reader prefers dark colours.
    pub is_dark: bool,
}

/// A browser with one window; it ends when this value goes.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    /// Its profile.
    profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver leaves a browser behind if it ends while the browser is busy.
        let _ = self.end_session();
        let _ = Command::new("kill")
            .args(["-TERM", &self.driver.id().to_string()])
            .status();
        let _ = self.driver.wait();
    }
}

/// An element of the page.
#[derive(Clone, Debug)]
pub struct Element(String);

impl Browser {
    fn is_installed() -> bool {
        let is_there = |program: &str| {
            let paths = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&paths).any(|path| path.join(program).exists())
        };
        if is_there("chromedriver") && is_there("chromium") {
            return true;
        }
        assert!(
            std::env::var_os("CI").is_none(),
            "there is no `chromium` or no `chromedriver`"
        );
        println!("skipped: there is no `chromium` or no `chromedriver`");
        false
    }

    /// Starts one that runs scripts, if one is installed; `CI` demands it.
    pub async fn start() -> Option<Self> {
        Self::with(true).await
    }

    /// Starts one that runs no scripts of pages, if one is installed.
    pub async fn without_scripts() -> Option<Self> {
        Self::with(false).await
    }

    async fn with(has_scripts: bool) -> Option<Self> {
        if !Self::is_installed() {
            return None;
        }
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start chromedriver");
        let address = listening(&mut driver);
        let profile = tempfile::tempdir().expect("a directory for the profile");
        let mut browser = Self {
            driver,
            address,
            session: String::new(),
            profile,
        };
        let capabilities = capabilities(browser.profile.path(), has_scripts);
        let session = browser.ask("POST", "/session", &capabilities).await;
        let id = session["sessionId"].as_str().expect("a session");
        id.clone_into(&mut browser.session);
        Some(browser)
    }

    /// Has the driver end its browser, and waits for that.
    fn end_session(&self) -> io::Result<()> {
        let mut driver = TcpStream::connect(self.address)?;
        driver.set_read_timeout(Some(Duration::from_secs(30)))?;
        let (session, address) = (&self.session, self.address);
        write!(
            driver,
            "DELETE /session/{session} HTTP/1.1\r\nHost: {address}\r\n\r\n"
        )?;
        // It answers when the browser has ended, and keeps the connection open, whatever it is asked for.
        driver.read_exact(&mut [0])
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.tell("/url", &json!({ "url": url })).await;
    }

    /// Where it is.
    pub async fn url(&self) -> String {
        let url = self.get("/url").await;
        url.as_str().unwrap_or_default().to_owned()
    }

    /// Changes the width and the colours.
    pub async fn show_on(&self, screen: Screen) {
        let metrics = json!({
            "width": screen.width, "height": 900, "deviceScaleFactor": 1, "mobile": false,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
        let scheme = if screen.is_dark { "dark" } else { "light" };
        let features = json!({
            "features": [{ "name": "prefers-color-scheme", "value": scheme }],
        });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// A picture of the whole page, as a PNG file, at most so high.
    pub async fn picture(&self, most: u32) -> Vec<u8> {
        let size = self.devtools("Page.getLayoutMetrics", json!({})).await;
        let size = &size["cssContentSize"];
        let height = size["height"]
            .as_f64()
            .unwrap_or(900.0)
            .min(f64::from(most));
        let clip = json!({
            "x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1,
        });
        let shot = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let shot = self.devtools("Page.captureScreenshot", shot).await;
        decoded(shot["data"].as_str().expect("a picture"))
    }

    /// Runs a function of the page and returns its result.
    pub async fn run(&self, script: &str) -> Value {
        self.tell("/execute/sync", &json!({ "script": script, "args": [] }))
            .await
    }

    /// Runs a function of the page that calls its last argument with the result.
    pub async fn run_async(&self, script: &str) -> Value {
        self.tell("/execute/async", &json!({ "script": script, "args": [] }))
            .await
    }

    /// Finds the elements of a selector.
    pub async fn all(&self, selector: &str) -> Vec<Element> {
        self.found("css selector", selector).await
    }

    /// Clicks on the visible link, button or summary of a text, and again if the page was just being updated.
    pub async fn click(&self, text: &str) {
        while !self.is_clicked(text).await {}
    }

    /// Clicks, and returns whether the element was still there.
    async fn is_clicked(&self, text: &str) -> bool {
        let path = format!(
            "//*[self::a or self::button or self::summary][starts-with(normalize-space(), \"{text}\")]"
        );
        let mut seen = String::new();
        for element in self.found("xpath", &path).await {
            let shown = self.get(&format!("/element/{}/displayed", element.0)).await;
            if shown == json!(true) {
                return self.press_on(&element).await;
            }
            if shown.is_null() {
                return false;
            }
            seen.push_str(" (hidden)");
        }
        panic!(
            "no `{text}`{seen} on {}:\n{}",
            self.url().await,
            self.text().await
        );
    }

    async fn press_on(&self, element: &Element) -> bool {
        let path = format!("/session/{}/element/{}/click", self.session, element.0);
        let request = HttpRequest::of(self.address, "POST", &path).body("{}");
        let answer = request
            .header("content-type", "application/json")
            .send()
            .await;
        let text = answer.text();
        let is_gone = names_a_replaced_page(&text);
        assert!(is_gone || answer.status == 200, "{path}: {text}");
        !is_gone
    }

    /// Clicks on the one element of a selector, and again if the page was just being updated.
    pub async fn click_the(&self, selector: &str) {
        loop {
            let found = self.all(selector).await;
            assert_eq!(found.len(), 1, "`{selector}` on {}", self.url().await);
            if self.press_on(&found[0]).await {
                return;
            }
        }
    }

    /// What a reader sees of the page, or of the next one if it is just being replaced.
    pub async fn text(&self) -> String {
        until_some("the page has a text", async || {
            let bodies = self.all("body").await;
            let text = format!("/element/{}/text", bodies.first()?.0);
            self.get(&text).await.as_str().map(str::to_owned)
        })
        .await
    }

    /// Waits until the page shows a text, without loading it again.
    pub async fn shows(&self, text: &str) {
        until(&format!("the page shows `{text}`"), async || {
            self.text().await.contains(text)
        })
        .await;
    }

    /// Loads the page again until it shows a text, as a reader without scripts does.
    pub async fn reloads_until(&self, text: &str) {
        until(&format!("the page shows `{text}`"), async || {
            self.tell("/refresh", &json!({})).await;
            self.text().await.contains(text)
        })
        .await;
    }

    /// Waits until the page no longer shows a text.
    pub async fn hides(&self, text: &str) {
        until(&format!("the page no longer shows `{text}`"), async || {
            !self.text().await.contains(text)
        })
        .await;
    }

    /// Presses a key, wherever the focus is: an element that is asked for first may be gone by then.
    pub async fn press(&self, key: &str) {
        let moves = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": moves });
        self.tell("/actions", &json!({ "actions": [keyboard] }))
            .await;
    }

    async fn found(&self, using: &str, value: &str) -> Vec<Element> {
        let found = self
            .tell("/elements", &json!({ "using": using, "value": value }))
            .await;
        let elements = found.as_array().cloned().unwrap_or_default();
        let id = |element: &Value| element[ELEMENT].as_str().map(str::to_owned);
        elements.iter().filter_map(id).map(Element).collect()
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let command = json!({ "cmd": command, "params": parameters });
        self.tell("/goog/cdp/execute", &command).await
    }

    async fn get(&self, path: &str) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.ask("GET", &path, &Value::Null).await
    }

    async fn tell(&self, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.ask("POST", &path, body).await
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = HttpRequest::of(self.address, method, path);
        let request = match body {
            Value::Null => request,
            body => request.body(body.to_string()),
        };
        let answer = request
            .header("content-type", "application/json")
            .send()
            .await;
        let text = answer.text();
        if names_a_replaced_page(&text) {
            return Value::Null;
        }
        assert_eq!(answer.status, 200, "{method} {path}: {text}");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        answer["value"].clone()
    }
}

/// Whether an answer says that the element belongs to a page that was just replaced. The driver words it
/// differently at different moments.
fn names_a_replaced_page(answer: &str) -> bool {
    let words = [
        "stale element reference",
        "does not belong to the document",
        "No node with given id",
    ];
    words.iter().any(|words| answer.contains(words))
}

/// Where a driver listens, which it writes.
fn listening(driver: &mut Child) -> SocketAddr {
    let out = BufReader::new(driver.stdout.take().expect("its output"));
    let port = out.lines().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("successfully on port ")?;
        port.trim_end_matches('.').parse::<u16>().ok()
    });
    SocketAddr::from(([127, 0, 0, 1], port.expect("a port")))
}

fn capabilities(profile: &Path, has_scripts: bool) -> Value {
    let scripts = if has_scripts { 1 } else { 2 };
    let profile = format!("--user-data-dir={}", profile.display());
    json!({ "capabilities": { "alwaysMatch": {
        "timeouts": { "script": 60_000 },
        "goog:chromeOptions": {
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--hide-scrollbars", "--lang=en", profile,
            ],
            "prefs": { "profile.managed_default_content_settings.javascript": scripts },
        },
    } } })
}

/// The bytes of a text in base 64.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3);
    for four in digits.chunks(4) {
        let word = four
            .iter()
            .fold(0_u32, |word, digit| word << 6 | u32::from(*digit));
        let word = word << (6 * (4 - four.len()));
        bytes.extend(word.to_be_bytes()[1..].iter().take(four.len() - 1));
    }
    bytes
}
