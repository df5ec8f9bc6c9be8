//! Pages that say why there is no other.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};

use super::layout::{Section, freshness, page};
use crate::admin::AdminError;
use crate::backend::ConsumerId;
use crate::contract::chain;
use crate::dashboard::snapshots::Snapshot;
use crate::dashboard::urls::Base;
use crate::dashboard::words::prose;

/// A page with a message and a way on.
pub(crate) fn failure(
    base: &Base,
    status: StatusCode,
    title: &str,
    message: &Markup,
    back: &str,
) -> Response {
    let content = html! {
        h1 { (title) }
        p.banner.bad role="alert" { (message) }
        p { a href=(back) { "Back" } }
    };
    (status, page(base, Section::Overview, title, &content)).into_response()
}

/// The database, or the tables, cannot be used.
pub(crate) fn failed(base: &Base, error: &AdminError) -> Response {
    let message = prose(&chain(error).to_string());
    let status = StatusCode::SERVICE_UNAVAILABLE;
    failure(base, status, "Not available", &message, &base.overview())
}

/// No consumer has that name and version, or none is known.
pub(crate) fn unknown_consumer(
    base: &Base,
    consumer: &ConsumerId,
    snapshot: &Snapshot,
) -> Response {
    let content = html! {
        div.heading { h1 { "Unknown consumer" } (freshness(snapshot)) }
        p { "There is no consumer " bdi { (consumer) } " on this log." }
        p { a href=(base.overview()) { "All consumers" } }
    };
    let page = page(base, Section::Overview, "Unknown consumer", &content);
    (StatusCode::NOT_FOUND, page).into_response()
}

/// There is nothing at an address.
pub(crate) async fn not_found(base: Base) -> Response {
    let message = html! { "There is no such page." };
    failure(
        &base,
        StatusCode::NOT_FOUND,
        "Not found",
        &message,
        &base.overview(),
    )
}

/// Answers with a page where the framework has refused a request with a line of text, or none: an address with a
/// word for a number, a form that is too long.
pub(crate) async fn refused(base: Base, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE);
    let is_page = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !status.is_client_error() || is_page {
        return response;
    }
    let message =
        html! { "The address, or the form that was sent to it, is not one of this dashboard." };
    let mut page = failure(&base, status, "Not understood", &message, &base.overview());
    if let Some(allowed) = response.headers().get(ALLOW) {
        page.headers_mut().insert(ALLOW, allowed.clone());
    }
    page
}
