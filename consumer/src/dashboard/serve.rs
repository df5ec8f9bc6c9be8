//! The server of the command `dashboard`.

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;

use super::security::add_headers;

/// The name to sign in with.
const USER: &str = "operator";

/// A password that is guessed too easily.
const SHORTEST_PASSWORD: usize = 16;

/// Why the dashboard is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(
        "the dashboard shows what events contain, so it does not listen at {0}, beyond this machine, without authentication; give it a password (`--password-file`), or mount `consumer::dashboard::router` behind your own"
    )]
    NotLoopback(SocketAddr),
    #[error("the password file `{}` cannot be read", .path.display())]
    PasswordFile { path: PathBuf, source: io::Error },
    #[error("the password in `{}` is shorter than {SHORTEST_PASSWORD} bytes; choose a longer one", .0.display())]
    ShortPassword(PathBuf),
    #[error("cannot listen at {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("the server failed")]
    Serve(#[source] io::Error),
}

impl ServeError {
    /// Whether nothing failed, and the command line has to change.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::NotLoopback(_) | Self::ShortPassword(_))
    }
}

/// Who may see the pages.
struct Access {
    /// The header of a request with the password.
    authorization: Option<String>,
    /// Whether the names of hosts do not matter, since the password does.
    any_host: bool,
}

/// A dashboard that listens.
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
    access: Access,
}

impl Server {
    /// Begins to listen, unless that would show events to others.
    pub(crate) async fn listen(
        address: SocketAddr,
        password_file: Option<&Path>,
    ) -> Result<Self, ServeError> {
        if !address.ip().is_loopback() && password_file.is_none() {
            return Err(ServeError::NotLoopback(address));
        }
        let authorization = password_file.map(authorization).transpose()?;
        let listening = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let listening: Result<_, io::Error> = listening.await;
        let (listener, address) =
            listening.map_err(|source| ServeError::Listen { address, source })?;
        Ok(Self {
            listener,
            address,
            access: Access {
                any_host: authorization.is_some(),
                authorization,
            },
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the pages until the future ends.
    pub(crate) async fn serve(
        self,
        router: Router,
        until: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let router = router.layer(from_fn_with_state(Arc::new(self.access), admit));
        // Outermost, for the answers to those that are not admitted.
        let router = router.layer(map_response(add_headers));
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(until);
        serving.await.map_err(ServeError::Serve)
    }
}

fn authorization(path: &Path) -> Result<String, ServeError> {
    let read = fs::read_to_string(path);
    let password = read.map_err(|source| ServeError::PasswordFile {
        path: path.to_owned(),
        source,
    })?;
    let password = password.trim_end_matches(['\n', '\r']);
    if password.len() < SHORTEST_PASSWORD {
        return Err(ServeError::ShortPassword(path.to_owned()));
    }
    let pair = format!("{USER}:{password}");
    Ok(format!("Basic {}", base64(pair.as_bytes())))
}

/// Admits requests with the password, if there is one, and otherwise those that name this machine.
async fn admit(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    if let Some(expected) = &access.authorization {
        let given = request.headers().get(AUTHORIZATION);
        if !given.is_some_and(|given| is_equal(given.as_bytes(), expected.as_bytes())) {
            let ask = [(
                WWW_AUTHENTICATE,
                "Basic realm=\"consumers\", charset=\"UTF-8\"",
            )];
            let message = format!("sign in as `{USER}` with the password");
            return (StatusCode::UNAUTHORIZED, ask, message).into_response();
        }
    }
    if !access.any_host && !is_this_machine(request.headers()) {
        let message = "this dashboard is only served to this machine";
        return (StatusCode::FORBIDDEN, message).into_response();
    }
    next.run(request).await
}

/// Whether a request names this machine by its address: another site can make its own name lead here, and
/// its pages could then read the answers.
fn is_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: std::net::IpAddr| address.is_loopback();
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_loopback)
}

/// Compares in the same time, whatever the first difference.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let difference = one
        .iter()
        .zip(other)
        .fold(0, |all, (one, other)| all | (one ^ other));
    one.len() == other.len() && difference == 0
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        // Of three bytes each six bits are a character; of fewer, the others are filled up.
        for (digit, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let index = usize::try_from((word >> shift) & 63).unwrap_or(0);
            let character = ALPHABET.get(index).copied().unwrap_or(b'=');
            let is_filled_up = digit > chunk.len();
            text.push(if is_filled_up {
                '='
            } else {
                char::from(character)
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use axum::http::header::HOST;

    use super::{base64, is_equal, is_this_machine};

    #[test]
    fn base64_is_padded() {
        for (text, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }

    #[test]
    fn only_equal_bytes_are_equal() {
        assert!(is_equal(b"ab", b"ab"));
        assert!(!is_equal(b"ab", b"ac") && !is_equal(b"ab", b"a") && !is_equal(b"", b"a"));
    }

    #[test]
    fn a_name_that_leads_to_this_machine_is_not_its_own() {
        let is_admitted = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            is_this_machine(&headers)
        };
        for own in [
            "localhost:80",
            "127.0.0.1:4000",
            "[::1]:4000",
            "LOCALHOST",
            "127.0.0.9",
        ] {
            assert!(is_admitted(own), "{own}");
        }
        for other in [
            "evil.example",
            "localhost.evil.example:80",
            "10.0.0.1",
            "127.0.0.1.evil.example",
        ] {
            assert!(!is_admitted(other), "{other}");
        }
        assert!(!is_this_machine(&HeaderMap::new()));
    }
}
