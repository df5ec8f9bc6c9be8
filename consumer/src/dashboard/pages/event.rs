//! One event: its content, what caused it, and what a consumer made of it.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::failure;
use super::layout::{self, Section, content, name, page};
use crate::admin::text::number;
use crate::admin::{AdminError, Explanation, Target};
use crate::backend::{Backend, LogRow, readable_event, readable_payload, readable_time};
use crate::contract::{PersistedEvent, chain};
use crate::dashboard::app::Shared;
use crate::dashboard::payload::show;
use crate::dashboard::snapshots::Snapshot;
use crate::dashboard::urls::{Base, EventPath, IdPath, with_query};
use crate::dashboard::words::{date, prose};

/// How far around an event the others of its correlation are looked for.
const AROUND: i64 = 2_500;

/// The consumer about which to explain.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    consumer: String,
    version: Option<u32>,
}

pub(crate) async fn event<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
    Path(EventPath { position }): Path<EventPath>,
    Query(asked): Query<Asked>,
) -> Response {
    let row = match app.admin.event_at(position).await {
        Ok(row) => row,
        Err(error) => return failure::failed(&base, &error),
    };
    let snapshot = app.snapshots.current(&app.admin).await;
    let explanation = match &*asked.consumer {
        "" => None,
        consumer => {
            let target = Target::new(consumer);
            let target = match asked.version {
                Some(version) => target.version(version),
                None => target,
            };
            Some(app.admin.explain(target, position).await)
        }
    };
    let content = html! {
        div.heading {
            h1 { "Event " (number(position)) }
            nav.pager aria-label="Neighbours" {
                a rel="prev" href=(base.events(&[("after", &position.to_string())])) { "Later events" }
                a rel="next" href=(base.events(&[("before", &position.to_string())])) { "Earlier events" }
            }
        }
        @match &row {
            Some(row) => (facts(row, &base)),
            None => p.empty { "The log has no event at this position." },
        }
        (consumers(position, &snapshot, explanation.as_ref(), &base))
    };
    let status = if row.is_some() {
        StatusCode::OK
    } else {
        StatusCode::NOT_FOUND
    };
    let title = format!("Event {position}");
    (status, page(&base, Section::Events, &title, &content)).into_response()
}

fn facts(row: &LogRow, base: &Base) -> Markup {
    let event = readable_event(row);
    let (kind, id) = (&*event.aggregate_type, event.aggregate_id.as_str());
    html! {
        section.panel aria-label="Event" {
            dl.facts {
                div { dt { "Type" } dd { a href=(base.events(&[("event", &event.event_type)])) { bdi { (event.event_type) } } " v" (event.event_version) } }
                div { dt { "Aggregate" } dd {
                    a href=(base.events(&[("type", kind)])) { bdi { (kind) } } " "
                    a href=(base.events(&[("type", kind), ("id", id)])) { bdi { (id) } }
                } }
                div { dt { "Version" } dd { (number(event.aggregate_version)) } }
                div { dt { "Time" } dd { @match readable_time(row) { Some(time) => (date(time)), None => "cannot be decoded" } } }
                div { dt { "Event id" } dd {
                    @if event.event_id.is_nil() && row.is_err() { "cannot be decoded" } @else { code { (event.event_id) } }
                } }
                (relations(event, base))
            }
            (layout::payload(row, base))
            @if let Some(metadata) = &event.metadata {
                (content("Metadata", &show(metadata.as_bytes()), metadata.as_bytes().len(), None))
            }
        }
    }
}

/// The event that caused an event, those that it caused, and those that belong together.
fn relations(event: &PersistedEvent, base: &Base) -> Markup {
    let position = event.global_position;
    let around = (position - AROUND).max(0).to_string();
    let own_id = event.event_id.to_string();
    html! {
        @if let Some(cause) = &event.causation_id {
            div { dt { "Caused by" } dd {
                @if Uuid::try_parse(cause).is_ok() { a href=(base.event_by_id(cause)) { code { bdi { (cause) } } } }
                @else { code { bdi { (cause) } } }
            } }
        }
        @if !event.event_id.is_nil() { div { dt { "Caused" } dd { a href=(base.events(&[("causation", &own_id), ("after", &position.to_string())])) { "find its effects" } } } }
        @if let Some(correlation) = &event.correlation_id {
            div { dt { "Correlation" } dd { a href=(base.events(&[("correlation", correlation), ("after", &around)])) { code { bdi { (correlation) } } } } }
        }
        @if let Some(trace) = &event.trace_id { div { dt { "Trace" } dd { code { bdi { (trace) } } } } }
    }
}

/// The fate of the event in each consumer.
fn consumers(
    position: i64,
    snapshot: &Snapshot,
    explanation: Option<&Result<Explanation, AdminError>>,
    base: &Base,
) -> Markup {
    html! {
        section.panel #explain aria-labelledby="explain-title" {
            h2 #explain-title { "In the consumers" }
            @match explanation {
                None if snapshot.consumers().is_empty() => p.muted { "This program has no consumers, and none has run on this log." },
                None => p.muted { "Choose a consumer to see whether it has handled the event, and which handler takes it." },
                Some(Ok(explanation)) => (explained(explanation, base)),
                Some(Err(error)) => p.banner.bad role="alert" { (prose(&chain(error).to_string())) },
            }
            ul.choices {
                @for one in snapshot.consumers() {
                    @let id = &one.id;
                    @let version = id.version.to_string();
                    @let query = [("consumer", &*id.name), ("version", version.as_str())];
                    @let is_chosen = explanation.is_some_and(|found| found.as_ref().is_ok_and(|found| found.consumer == *id));
                    li { a href=(with_query(&base.event(position), &query)) aria-current=[is_chosen.then_some("true")] { (name(id)) } }
                }
            }
        }
    }
}

fn explained(explanation: &Explanation, base: &Base) -> Markup {
    let id = &explanation.consumer;
    html! {
        p.outcome { a href=(base.consumer(id)) { (name(id)) } ": " (prose(&explanation.outcome_text())) }
        dl.facts {
            @if let Some(checkpoint) = explanation.checkpoint { div { dt { "Checkpoint" } dd { (number(checkpoint)) } } }
            div { dt { "Is replay" } dd { @if explanation.is_replay { "yes" } @else { "no" } } }
            @if explanation.is_without_handler { div { dt { "Handler" } dd { "none takes it" } } }
            @for handler in &explanation.handlers {
                div { dt { "Handler" } dd { code { (handler.method) } " at " code { (handler.file) ":" (handler.line) } } }
            }
        }
    }
}

/// The payload as a file, which no browser shows or runs.
pub(crate) async fn payload<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
    Path(EventPath { position }): Path<EventPath>,
) -> Response {
    let row = match app.admin.event_at(position).await {
        Ok(row) => row,
        Err(error) => return failure::failed(&base, &error),
    };
    match row.as_ref().and_then(readable_payload) {
        Some(payload) => {
            let name = format!("attachment; filename=\"event-{position}.payload\"");
            let headers = [
                (CONTENT_TYPE, "application/octet-stream".to_owned()),
                (CONTENT_DISPOSITION, name),
                (
                    CONTENT_SECURITY_POLICY,
                    "default-src 'none'; sandbox".to_owned(),
                ),
            ];
            (headers, Body::from(payload.clone())).into_response()
        }
        None => failure::not_found(base).await,
    }
}

/// Finds an event by its id.
pub(crate) async fn by_id<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
    Path(IdPath { event_id }): Path<IdPath>,
) -> Response {
    match app.admin.position_of_event(event_id).await {
        Ok(Some(position)) => Redirect::to(&base.event(position)).into_response(),
        Ok(None) => failure::not_found(base).await,
        Err(error) => failure::failed(&base, &error),
    }
}
