//! The event browser.

use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::failure;
use super::layout::{Section, page};
use crate::admin::events::{EventFilter, EventPage};
use crate::admin::text::{count, number};
use crate::backend::{Backend, Cursor, EventHeader};
use crate::dashboard::app::Shared;
use crate::dashboard::urls::{Base, cursor};
use crate::dashboard::words::{bytes, date};

/// The events of one page.
const SHOWN: usize = 50;

/// Which events to show, as a form sends it: what is not given is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    position: String,
    r#type: String,
    id: String,
    event: String,
    correlation: String,
    causation: String,
    before: Option<i64>,
    after: Option<i64>,
}

impl Asked {
    fn filter(&self) -> EventFilter {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        EventFilter {
            aggregate_type: given(&self.r#type),
            aggregate_id: given(&self.id),
            event_type: given(&self.event),
            correlation_id: given(&self.correlation),
            causation_id: given(&self.causation),
        }
    }

    fn cursor(&self) -> Cursor {
        match (self.after, self.before) {
            (Some(after), _) => Cursor::After(after),
            (None, before) => Cursor::Before(before.unwrap_or(i64::MAX)),
        }
    }

    /// What to say if there are no such events, in the whole log or among those that were searched.
    fn without_events(&self, searched: Option<usize>) -> String {
        if let Some(searched) = searched {
            let searched = count(searched as u64, "event");
            return format!("No match in the {searched} searched; there are more to search.");
        }
        let is_anywhere = self.after.is_none() && self.before.is_none();
        let text = if self.filter() != EventFilter::default() {
            "No event matches. Types and ids match as a whole, in upper and lower case."
        } else if is_anywhere {
            "The log has no events yet."
        } else {
            "The log has no more events in this direction."
        };
        text.to_owned()
    }

    /// The address of the same events elsewhere in the log.
    fn at(&self, base: &Base, at: Cursor) -> String {
        let (name, value) = cursor(at);
        base.events(&[
            ("type", &self.r#type),
            ("id", &self.id),
            ("event", &self.event),
            ("correlation", &self.correlation),
            ("causation", &self.causation),
            (name, &value),
        ])
    }
}

pub(crate) async fn events<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
    Query(asked): Query<Asked>,
) -> Response {
    if let Ok(position) = asked.position.trim().replace(',', "").parse() {
        return Redirect::to(&base.event(position)).into_response();
    }
    let filter = asked.filter();
    let found = app.admin.events(&filter, asked.cursor(), SHOWN);
    let found = match found.await {
        Ok(found) => found,
        Err(error) => return failure::failed(&base, &error),
    };
    let content = html! {
        div.heading { h1 { "Events" } }
        (form(&asked, &base))
        @if !asked.id.is_empty() && asked.r#type.is_empty() {
            p.banner.warn role="alert" { "An aggregate is found by its type and id: enter the type too." }
        }
        (table(&found, &asked, &base))
        (pager(&asked, &found, &base))
    };
    page(&base, Section::Events, "Events", &content).into_response()
}

fn form(asked: &Asked, base: &Base) -> Markup {
    let field = |name: &str, label: &str, value: &str| {
        html! {
            div.field {
                label for=(name) { (label) }
                input id=(name) name=(name) value=(value) autocomplete="off" spellcheck="false";
            }
        }
    };
    html! {
        form.filter method="get" action=(base.named("events")) role="search" {
            (field("position", "Position", &asked.position))
            (field("type", "Aggregate type", &asked.r#type))
            (field("id", "Aggregate id", &asked.id))
            (field("event", "Event type", &asked.event))
            @if !asked.correlation.is_empty() { (field("correlation", "Correlation id", &asked.correlation)) }
            @if !asked.causation.is_empty() { (field("causation", "Causation id", &asked.causation)) }
            button { "Show" }
            a href=(base.named("events")) { "Latest events" }
        }
    }
}

fn table(found: &EventPage, asked: &Asked, base: &Base) -> Markup {
    if found.events.is_empty() {
        return html! { p.empty { (asked.without_events(found.searched)) } };
    }
    html! {
        table.events {
            caption.hidden { "Events, latest first" }
            thead { tr {
                th.number scope="col" { "Position" } th scope="col" { "Time" } th scope="col" { "Event" }
                th scope="col" { "Aggregate" } th.number scope="col" { "Version" } th.number scope="col" { "Payload" }
            } }
            tbody { @for event in &found.events { (row(event, base)) } }
        }
    }
}

fn row(event: &EventHeader, base: &Base) -> Markup {
    let (kind, id) = (event.aggregate_type.as_str(), event.aggregate_id.as_str());
    html! {
        tr {
            th.number scope="row" { a href=(base.event(event.position)) { (number(event.position)) } }
            td.muted data-label="Time" { @match event.created_at { Some(at) => (date(at)), None => "–" } }
            td data-label="Event" { bdi { (event.event_type) } @if event.event_version != 1 { " " span.version { "v" (event.event_version) } } }
            td data-label="Aggregate" {
                a href=(base.events(&[("type", kind)])) { bdi { (kind) } } " "
                a href=(base.events(&[("type", kind), ("id", id)])) { bdi { (id) } }
            }
            td.number data-label="Version" { (number(event.aggregate_version)) }
            td.number data-label="Payload" { (bytes(event.payload_bytes.unsigned_abs())) }
        }
    }
}

fn pager(asked: &Asked, found: &EventPage, base: &Base) -> Markup {
    let searched = found.searched.filter(|_| !found.events.is_empty());
    html! {
        @if let Some(searched) = searched {
            p.muted { "Searched " (count(searched as u64, "event")) "; there are more." }
        }
        nav.pager aria-label="Pages of events" {
            @if let Some(later) = found.later { a rel="prev" href=(asked.at(base, later)) { "Later" } }
            @if let Some(earlier) = found.earlier { a rel="next" href=(asked.at(base, earlier)) { "Earlier" } }
        }
    }
}
