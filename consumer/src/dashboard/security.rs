//! What keeps other sites, and what an event contains, from acting in a reader's name.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::worker::timeouts::after;

/// Only the files of the dashboard run or are shown, forms lead only to it, and no other page frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// How long a form can be sent after its page was shown.
const TOKEN_LIFETIME: Duration = Duration::from_hours(1);

/// How long a page that is brought up to date keeps its token.
const TOKEN_REUSE: Duration = Duration::from_mins(30);

/// The number of pages with forms that can be open at a time.
const MOST_TOKENS: usize = 20_000;

/// The header in which a page that is brought up to date sends the token that it has.
const TOKEN: HeaderName = HeaderName::from_static("x-form-token");

/// Adds to each response what browsers need to know.
pub(super) async fn add_headers(mut response: Response) -> Response {
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // With `no-referrer`, browsers would send no origin with a form either.
        (REFERRER_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}

/// Whether a browser sent a request from a page of the same origin.
///
/// Browsers say so themselves where they trust the connection. Elsewhere, the origin must be that of the
/// address; a request that names none is refused.
pub(super) fn is_same_origin(parts: &Parts) -> bool {
    let header = |name: HeaderName| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    if let Some(site) = header(HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    let own = match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => header(HOST),
    };
    let origin = header(ORIGIN).and_then(|origin| origin.split_once("://"));
    match (origin, own) {
        (Some((_, origin)), Some(own)) => origin.eq_ignore_ascii_case(own),
        _ => false,
    }
}

/// The tokens of the forms that were shown, each of which can be sent once.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<Issued>);

#[derive(Debug, Default)]
struct Issued {
    /// In the order in which they expire.
    by_time: VecDeque<(Instant, Uuid)>,
    unused: HashMap<Uuid, Instant>,
}

impl Tokens {
    /// The token for the forms of a page: a new one, unless the page is only brought up to date. Otherwise a page
    /// that stays open would use up those of all others.
    pub(super) fn of_page(&self, request: &Parts) -> String {
        let own = request.headers.get(TOKEN);
        let own = own.and_then(|own| Uuid::try_parse_ascii(own.as_bytes()).ok());
        match own.filter(|own| self.can_be_kept(own)) {
            Some(own) => own.to_string(),
            None => self.issue(),
        }
    }

    fn can_be_kept(&self, token: &Uuid) -> bool {
        let issued = self.0.lock();
        let until = issued.unused.get(token);
        until.is_some_and(|until| *until > after(TOKEN_REUSE))
    }

    fn issue(&self) -> String {
        let token = Uuid::new_v4();
        let mut issued = self.0.lock();
        issued.forget_until(Instant::now(), MOST_TOKENS - 1);
        let until = after(TOKEN_LIFETIME);
        issued.by_time.push_back((until, token));
        issued.unused.insert(token, until);
        token.to_string()
    }

    /// Whether a token was issued and not used before.
    pub(super) fn take(&self, token: &str) -> bool {
        let Ok(token) = Uuid::try_parse(token) else {
            return false;
        };
        let mut issued = self.0.lock();
        issued.forget_until(Instant::now(), MOST_TOKENS);
        issued.unused.remove(&token).is_some()
    }
}

impl Issued {
    /// Forgets the tokens that have expired, and the oldest of too many.
    fn forget_until(&mut self, now: Instant, most: usize) {
        while let Some(&(until, token)) = self.by_time.front()
            && (until <= now || self.by_time.len() > most)
        {
            self.by_time.pop_front();
            self.unused.remove(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use axum::http::request::Parts;

    use super::{MOST_TOKENS, TOKEN_REUSE, Tokens, after, is_same_origin};

    fn from(headers: &[(&str, &str)]) -> bool {
        let mut request = Request::post("/consumers/users/1/pause");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        is_same_origin(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn only_a_page_of_the_same_origin_may_post() {
        let host = ("host", "ops.example:8080");
        assert!(from(&[host, ("origin", "http://ops.example:8080")]));
        assert!(from(&[host, ("sec-fetch-site", "same-origin")]));
        for other in [
            &[host][..],
            &[host, ("origin", "http://ops.example")],
            &[host, ("origin", "https://evil.example")],
            &[host, ("origin", "null")],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
            &[
                host,
                ("origin", "http://ops.example:8080"),
                ("sec-fetch-site", "none"),
            ],
        ] {
            assert!(!from(other), "{other:?}");
        }
    }

    #[test]
    fn a_token_is_taken_once() {
        let tokens = Tokens::default();
        let token = tokens.issue();
        assert!(tokens.take(&token));
        assert!(!tokens.take(&token));
        assert!(!tokens.take("a49c9f5c-5b1f-4a6a-8d52-7d4f2b9f8b53"));
        assert!(!tokens.take(""));
    }

    /// The head of a request by a page with a token.
    fn refresh(token: &str) -> Parts {
        let request = Request::get("/consumers/users/1").header("x-form-token", token);
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_page_that_is_refreshed_keeps_its_token() {
        let tokens = Tokens::default();
        let (other, own) = (tokens.issue(), tokens.issue());
        for _ in 0..=MOST_TOKENS {
            assert_eq!(tokens.of_page(&refresh(&own)), own);
        }
        assert!(tokens.take(&other) && tokens.take(&own));
        // A token that is used, or that no one has issued, is not kept.
        for token in [&*own, "a49c9f5c-5b1f-4a6a-8d52-7d4f2b9f8b53", "x", ""] {
            let new = tokens.of_page(&refresh(token));
            assert_ne!(new, token);
            assert!(tokens.take(&new));
        }
    }

    #[test]
    fn a_token_that_is_half_over_is_replaced() {
        let tokens = Tokens::default();
        let token = tokens.issue();
        let id = token.parse().unwrap();
        let until = |time| *tokens.0.lock().unused.get_mut(&id).unwrap() = time;
        until(after(TOKEN_REUSE));
        assert_ne!(tokens.of_page(&refresh(&token)), token);
        // The control, and the old one is still taken.
        until(after(TOKEN_REUSE * 3 / 2));
        assert_eq!(tokens.of_page(&refresh(&token)), token);
        assert!(tokens.take(&token));
    }

    #[test]
    fn forgotten_tokens_take_no_memory() {
        let tokens = Tokens::default();
        let first = tokens.issue();
        for _ in 0..MOST_TOKENS {
            tokens.issue();
        }
        assert!(!tokens.take(&first));
        assert!(tokens.0.lock().unused.len() <= MOST_TOKENS);
    }
}
