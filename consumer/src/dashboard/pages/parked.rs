//! The parked events of a consumer, by aggregate and in order.

use std::cell::OnceCell;

use axum::extract::{Path, Query, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::failure;
use super::layout::{Section, name, page};
use crate::admin::text::{count, duration, number};
use crate::admin::{ParkedEvent, by_aggregate};
use crate::backend::{Backend, ConsumerId};
use crate::dashboard::app::{App, Shared};
use crate::dashboard::forms::form;
use crate::dashboard::options::ActionKind;
use crate::dashboard::urls::{Base, ConsumerPath, with_query};

/// The events of one page.
const SHOWN: usize = 200;

/// Where the page begins.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Start {
    #[serde(default)]
    after: i64,
}

pub(crate) async fn parked<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
    Path(path): Path<ConsumerPath>,
    Query(start): Query<Start>,
    request: Parts,
) -> Response {
    let id = ConsumerId::from(path);
    let limit = i64::try_from(SHOWN + 1).unwrap_or(i64::MAX);
    let events = match app.admin.parked_after(&id, start.after, limit).await {
        Ok(events) => events,
        Err(error) => return failure::failed(&base, &error),
    };
    let has_more = events.len() > SHOWN;
    let events = events.get(..SHOWN).unwrap_or(&events);
    let view = View {
        id: &id,
        base: &base,
        token: OnceCell::new(),
        has_more,
        can_retry: app.admin.declaration(&id).is_some(),
    };
    let content = html! {
        div.heading { h1 { "Parked by " a href=(base.consumer(&id)) { (name(&id)) } } }
        p.muted {
            "Events that failed, and later events of the same aggregates, which wait behind them. "
            "A retry handles the events of an aggregate in order."
        }
        @if events.is_empty() { p.empty { "No event is parked." } }
        @for aggregate in by_aggregate(events) { (view.aggregate(&app, &request, &aggregate)) }
        @if let (true, Some(last)) = (has_more, events.last()) {
            nav.pager aria-label="More parked events" {
                @let address = base.of_consumer(&id, "parked");
                a href=(with_query(&address, &[("after", &last.position.to_string())])) { "Later parked events" }
            }
        }
    };
    let title = format!("Parked by {id}");
    page(&base, Section::Overview, &title, &content).into_response()
}

struct View<'a> {
    id: &'a ConsumerId,
    base: &'a Base,
    /// Issued for the first form, if there is one.
    token: OnceCell<String>,
    /// Whether there are later parked events, possibly of the same aggregates.
    has_more: bool,
    can_retry: bool,
}

impl View<'_> {
    fn aggregate<DB: Backend>(
        &self,
        app: &App<DB>,
        request: &Parts,
        events: &[&ParkedEvent],
    ) -> Markup {
        let Some(first) = events.first() else {
            return html! {};
        };
        let (kind, id) = (first.aggregate_type.as_str(), first.aggregate_id.as_str());
        let retry = ActionKind::RetryParked {
            position: Some(first.position),
        };
        let skip = ActionKind::SkipParked {
            position: first.position,
        };
        let possible = self.can_retry.then_some(retry).into_iter().chain([skip]);
        let allowed = app.allowed(request, self.id, possible);
        let token = || self.token.get_or_init(|| app.tokens.of_page(request));
        html! {
            section.panel.parked {
                div.heading {
                    h2 { a href=(self.base.events(&[("type", kind), ("id", id)])) { bdi { (kind) } " " bdi { (id) } } }
                    span.muted { (count(events.len() as u64, "event")) @if self.has_more { " on this page" } }
                    div.actions { @for kind in allowed { (form(self.base, self.id, token(), kind)) } }
                }
                ol {
                    @for event in events.iter().filter(|event| event.has_failed) { (self.failed(event)) }
                }
                (self.behind(events))
            }
        }
    }

    fn failed(&self, event: &ParkedEvent) -> Markup {
        html! {
            li {
                a href=(self.base.event(event.position)) { (number(event.position)) }
                " " span.muted { "parked for " (duration(event.parked_for)) }
                ", failed " (count(event.attempts.into(), "time"))
                @if let Some(error) = &event.error {
                    pre.error tabindex="0" role="region" aria-label={ "Error of event " (event.position) } { bdi { (error) } }
                }
            }
        }
    }

    /// Those that wait behind an earlier one, which have nothing to tell but where they are.
    fn behind(&self, events: &[&ParkedEvent]) -> Markup {
        let behind: Vec<_> = events.iter().filter(|event| !event.has_failed).collect();
        if behind.is_empty() {
            return html! {};
        }
        html! {
            p.muted {
                @match events {
                    [first, ..] if first.has_failed => { (count(behind.len() as u64, "later event")) " behind:" }
                    // Those that failed are on an earlier page, or were skipped.
                    _ => { (count(behind.len() as u64, "event")) " waiting for a retry:" }
                }
            }
            ol.behind {
                @for event in behind { li { a href=(self.base.event(event.position)) { (number(event.position)) } } }
            }
        }
    }
}
