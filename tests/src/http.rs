//! Plain HTTP requests, for tests of what a server answers.

use std::fmt::Write as _;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::patiently;

/// A request that is yet to be sent.
pub struct HttpRequest {
    address: SocketAddr,
    line: String,
    host: String,
    headers: String,
    body: String,
}

/// The answer to a request.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// Asks for a page.
    #[must_use]
    pub fn get(address: SocketAddr, path: &str) -> Self {
        Self::of(address, "GET", path)
    }

    /// Sends a form.
    #[must_use]
    pub fn post(address: SocketAddr, path: &str, form: &str) -> Self {
        let mut request = Self::of(address, "POST", path);
        form.clone_into(&mut request.body);
        request.header("content-type", "application/x-www-form-urlencoded")
    }

    /// A request of any method.
    #[must_use]
    pub fn of(address: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            address,
            line: format!("{method} {path} HTTP/1.1"),
            host: address.to_string(),
            headers: String::new(),
            body: String::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let _ = write!(self.headers, "{name}: {value}\r\n");
        self
    }

    /// Names another host than the address.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it and waits for the answer.
    pub async fn send(self) -> HttpAnswer {
        patiently(&self.line.clone(), self.exchange()).await
    }

    async fn exchange(self) -> HttpAnswer {
        let mut stream = TcpStream::connect(self.address).await.expect("connect");
        let text = format!(
            "{}\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n{}\r\n{}",
            self.line,
            self.host,
            self.body.len(),
            self.headers,
            self.body
        );
        stream.write_all(text.as_bytes()).await.expect("send");
        let mut answer = Vec::new();
        // A server that says how long the body is may keep the connection.
        while !is_whole(&answer) {
            let read = stream.read_buf(&mut answer).await.expect("an answer");
            if read == 0 {
                break;
            }
        }
        HttpAnswer::parse(&answer)
    }
}

/// Whether an answer has a body of the length that its head names.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| answer.len() >= end + 4 + length)
}

impl HttpAnswer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = bytes.split_at(end.expect("a head"));
        let head = String::from_utf8_lossy(head).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no status in {head}")),
            body: body[4..].to_vec(),
            head,
        }
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1);
        lines.find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
