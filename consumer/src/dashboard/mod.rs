//! The state of the consumers and the log in a browser.
//!
//! [`router`] is mounted in a program's own web server, behind its own authentication; the command
//! `dashboard` of the feature `cli` serves the same pages on this machine.
//!
//! ```
//! # consumer::__doc::run(async |store| { use consumer::__doc::Users;
//! use axum::Router;
//! use consumer::Worker;
//! use consumer::dashboard::{self, DashboardOptions};
//!
//! let admin = Worker::builder(store).consumer(Users).admin()?;
//! let app: Router = Router::new().nest("/ops", dashboard::router(admin, DashboardOptions::new()));
//! # Ok(()) }).unwrap();
//! ```
//!
//! | page | shows |
//! |---|---|
//! | consumers | how far the log is settled and what blocks it; of each consumer the state, lag, rate, segments, parked events and versions |
//! | a consumer | the event that fails with its payload and error, the rebuild, segments, handlers with their source, settings |
//! | parked events | by aggregate, in order |
//! | events | by position, aggregate and type; one event with payload, metadata, cause and effects, and what became of it in a consumer |
//! | processes | where checkpoints were saved lately |
//!
//! Pages work without JavaScript. With it, what changes is brought up to date every two seconds; the state is
//! read once for all viewers, and only while there is one.
//!
//! # Security
//!
//! The pages show what events contain, so put your own authentication before the router. They change nothing
//! unless [`DashboardOptions::authorize`] allows it. Then each form needs a token that was issued with its page
//! and is valid once, for an hour and in the same process, and a browser has to say that the form is from the
//! same origin. A strict content security policy keeps what an event contains from being run.

mod actions;
mod app;
mod figures;
mod forms;
mod options;
mod pages;
mod payload;
mod security;
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) mod serve;
mod snapshots;
mod urls;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{from_fn, map_response};
use axum::response::IntoResponse;
use axum::routing::{get, post};

use self::app::{App, Shared};
pub use self::options::{Action, ActionKind, DashboardOptions};
use crate::admin::Admin;
use crate::backend::Backend;

/// Longer than the forms need.
const MOST_SENT: usize = 16 * 1024;

/// Creates the pages over a store's consumers, for a program's own web server.
///
/// The admin of [`WorkerBuilder::admin`](crate::WorkerBuilder::admin) knows the program's consumers with
/// their source, and can retry and rebuild them. The router can be nested under any path.
pub fn router<DB: Backend>(admin: Admin<DB>, options: DashboardOptions) -> Router {
    use self::pages::{consumer, event, events, failure, overview, parked, processes};

    let one = "/consumers/{consumer}/{version}";
    let below = |path: &str| format!("{one}{path}");
    Router::new()
        .route("/", get(overview::overview::<DB>))
        .route(one, get(consumer::consumer::<DB>))
        .route(&below("/parked"), get(parked::parked::<DB>))
        .route(&below("/{action}"), post(actions::act::<DB>))
        .route("/events", get(events::events::<DB>))
        .route("/events/{position}", get(event::event::<DB>))
        .route("/events/{position}/payload", get(event::payload::<DB>))
        .route("/events/by-id/{event_id}", get(event::by_id::<DB>))
        .route("/processes", get(processes::processes::<DB>))
        .route("/live", get(live::<DB>))
        .route("/live.js", get(script))
        .route("/style.css", get(style))
        .fallback(failure::not_found)
        .layer(DefaultBodyLimit::max(MOST_SENT))
        .layer(from_fn(failure::refused))
        .layer(map_response(security::add_headers))
        .with_state(Arc::new(App::new(admin, options)))
}

/// Tells when there is something new.
///
/// The stream ends after each message and the browser opens the next: open streams would keep a server from
/// shutting down, and use up the six connections that a browser has for all windows.
async fn live<DB: Backend>(State(app): State<Shared<DB>>, headers: HeaderMap) -> impl IntoResponse {
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok()?.parse().ok());
    let snapshot = app.snapshots.next(&app.admin, last.unwrap_or(0)).await;
    let message = format!("retry: 500\nid: {0}\ndata: {0}\n\n", snapshot.serial);
    ([(CONTENT_TYPE, "text/event-stream")], message)
}

async fn script() -> impl IntoResponse {
    let kind = [(CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (kind, include_str!("live.js"))
}

async fn style() -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "text/css; charset=utf-8")],
        include_str!("style.css"),
    )
}
