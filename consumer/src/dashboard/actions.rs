//! The actions behind the forms.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::app::Shared;
use super::forms::Sent;
use super::options::{Action, ActionKind};
use super::pages::failure::failure;
use super::pages::layout::{Section, page};
use super::security::is_same_origin;
use super::urls::{ActionPath, Base};
use super::words::prose;
use crate::admin::text::count;
use crate::admin::{ActivateOptions, Admin, AdminError, ForgetOptions, RebuildOptions, Retried};
use crate::backend::Backend;
use crate::contract::chain;

/// How long a rebuild waits for the current batch.
const BATCH_WAIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Why a form is refused before anything is done.
#[derive(Clone, Copy, Debug)]
enum Refused {
    ReadOnly,
    OtherOrigin,
    Token,
    NoSuchAction,
    NotAllowed,
}

impl Refused {
    fn message(self) -> &'static str {
        match self {
            Self::ReadOnly => "this dashboard is read-only",
            Self::OtherOrigin => "the form was not sent from this dashboard",
            Self::Token => {
                "the form was sent before, or its page is too old: reload the page and check whether the action is still needed"
            }
            Self::NoSuchAction => "there is no such action",
            Self::NotAllowed => "you may not do this",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NoSuchAction => StatusCode::NOT_FOUND,
            _ => StatusCode::FORBIDDEN,
        }
    }
}

pub(super) async fn act<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
    Path(path): Path<ActionPath>,
    request: Parts,
    Form(sent): Form<Sent>,
) -> Response {
    let (consumer, action) = path.parts();
    let back = base.consumer(&consumer);
    let action = match permitted(&app, &request, &sent, &action) {
        Ok(kind) => Action { consumer, kind },
        Err(refused) => return refuse(&base, refused, &back),
    };
    if !app.allows(&request, &action) {
        return refuse(&base, Refused::NotAllowed, &back);
    }
    let worker = Arc::clone(&app);
    let kind = action.kind;
    // A reader who goes away does not stop it half-way.
    let done = tokio::spawn(async move { run(&worker.admin, &action).await }).await;
    app.snapshots.expire();
    match done {
        Ok(Ok(None)) => Redirect::to(&after(&back, kind)).into_response(),
        Ok(Ok(Some(retried))) => report(&base, &retried, &after(&back, kind)),
        Ok(Err(error)) => {
            let message = prose(&chain(&error).to_string());
            failure(&base, StatusCode::CONFLICT, "Refused", &message, &back)
        }
        Err(panic) => {
            let message = html! { (panic) };
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            failure(&base, status, "Failed", &message, &back)
        }
    }
}

/// The action of a form that this dashboard has shown, sent once.
fn permitted<DB: Backend>(
    app: &Shared<DB>,
    request: &Parts,
    sent: &Sent,
    action: &str,
) -> Result<ActionKind, Refused> {
    if app.is_read_only() {
        return Err(Refused::ReadOnly);
    }
    if !is_same_origin(request) {
        return Err(Refused::OtherOrigin);
    }
    let token = sent.token.as_deref().unwrap_or_default();
    if !app.tokens.take(token) {
        return Err(Refused::Token);
    }
    sent.action(action).ok_or(Refused::NoSuchAction)
}

fn refuse(base: &Base, refused: Refused, back: &str) -> Response {
    let message = html! { (refused.message()) };
    failure(base, refused.status(), "Refused", &message, back)
}

/// Where to go when an action is done.
fn after(consumer: &str, kind: ActionKind) -> String {
    match kind {
        ActionKind::SkipParked { .. } | ActionKind::RetryParked { position: Some(_) } => {
            format!("{consumer}/parked")
        }
        _ => consumer.to_owned(),
    }
}

async fn run<DB: Backend>(
    admin: &Admin<DB>,
    action: &Action,
) -> Result<Option<Retried>, AdminError> {
    let consumer = &action.consumer;
    match action.kind {
        ActionKind::Pause => admin.pause(consumer).await?,
        ActionKind::Resume => admin.resume(consumer).await?,
        ActionKind::Park { position } => admin.park(consumer, position).await?,
        ActionKind::Skip { position } => admin.skip(consumer, position).await?,
        ActionKind::AcceptScope => admin.accept_scope(consumer).await?,
        ActionKind::RetryParked { position } => {
            return Ok(Some(admin.retry_parked(consumer, position).await?));
        }
        ActionKind::SkipParked { position } => {
            admin.skip_parked(consumer, position).await?;
        }
        ActionKind::Rebuild { discard_parked } => {
            let mut options = RebuildOptions::new().wait(BATCH_WAIT);
            if discard_parked {
                options = options.discard_parked();
            }
            admin.rebuild(consumer, options).await?;
        }
        ActionKind::Activate { force } => {
            let mut options = ActivateOptions::new();
            if force {
                options = options.force();
            }
            admin.activate(consumer, options).await?;
        }
        ActionKind::Forget { discard_parked } => {
            let mut options = ForgetOptions::new();
            if discard_parked {
                options = options.discard_parked();
            }
            admin.forget(consumer, options).await?;
        }
    }
    Ok(None)
}

/// The result of retrying parked events, in words.
fn report(base: &Base, retried: &Retried, back: &str) -> Response {
    let content: Markup = html! {
        h1 { "Retried" }
        p.outcome { (count(retried.handled, "event")) " handled" }
        @for error in &retried.failed { p.banner.bad role="alert" { (prose(&chain(error).to_string())) } }
        p { a href=(back) { "Back" } }
    };
    page(base, Section::Overview, "Retried", &content).into_response()
}
