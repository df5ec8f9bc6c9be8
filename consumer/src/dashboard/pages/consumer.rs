//! One version of a consumer: what it does, why it does not, and what can be done about it.

use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};

use super::failure;
use super::layout::{Section, freshness, name, page, payload};
use crate::admin::problems::{on_command_line, problems_besides_failures};
use crate::admin::text::{count, duration, number, rate};
use crate::admin::{ConsumerState, ConsumerStatus, Failing, SegmentStatus};
use crate::backend::{Backend, ConsumerId, LogRow, readable_event, readable_time};
use crate::contract::{OnError, Settings, StartFrom, chain};
use crate::dashboard::app::{App, Shared};
use crate::dashboard::figures::{progress, slices, sparkline};
use crate::dashboard::forms::forms;
use crate::dashboard::options::ActionKind;
use crate::dashboard::snapshots::Snapshot;
use crate::dashboard::urls::{Base, ConsumerPath};
use crate::dashboard::words::{ago, class, date, events, last_save, or_dash, process, prose};
use crate::registry::Declaration;
use crate::registry::entry::declared;

/// The segments show which process each has.
const MOST_WORKERS: usize = 3;

/// The number of characters of an error that a row of the table of segments shows; the page of the event has all of it.
const MOST_OF_ERROR: usize = 200;

/// The most segments for which the page has forms for the event that they do not get past.
const MOST_OBSTACLES: usize = 4;

pub(crate) async fn consumer<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
    Path(path): Path<ConsumerPath>,
    request: Parts,
) -> Response {
    let id = ConsumerId::from(path);
    let snapshot = app.snapshots.current(&app.admin).await;
    let Some(one) = snapshot.consumer(&id) else {
        return failure::unknown_consumer(&base, &id, &snapshot);
    };
    let view = View {
        one,
        id: &id,
        declaration: app.admin.declaration(&id),
        snapshot: &snapshot,
        base: &base,
    };
    let event = match view.position() {
        Some(position) => app.admin.event_at(position).await.map_err(Box::new),
        None => Ok(None),
    };
    let event = event.map_err(|error| chain(error.as_ref()).to_string());
    let content = html! {
        (view.heading())
        (actions(&app, &request, &view))
        (view.facts())
        (view.obstacle(&event))
        (view.segments())
        (view.handlers())
        (view.settings())
    };
    page(&base, Section::Overview, &id.to_string(), &content).into_response()
}

/// The actions that the request may take.
fn actions<DB: Backend>(app: &App<DB>, request: &Parts, view: &View<'_>) -> Markup {
    let possible = view.possible(app.admin.can_reset(view.id));
    let allowed = app.allowed(request, view.id, possible.iter().copied());
    html! {
        section #actions data-live aria-label="Actions" {
            @if app.is_read_only() {
                p.muted {
                    "Read-only. On the command line: "
                    @for (index, kind) in possible.iter().enumerate() {
                        @if index > 0 { ", " }
                        code { (command(*kind, view.id)) }
                    }
                    @if possible.is_empty() { code { "status" } }
                }
            } @else if !allowed.is_empty() {
                (forms(view.base, view.id, &app.tokens.of_page(request), &allowed))
            }
        }
    }
}

/// The data of the page.
struct View<'a> {
    one: &'a ConsumerStatus,
    id: &'a ConsumerId,
    declaration: Option<&'a Declaration>,
    snapshot: &'a Snapshot,
    base: &'a Base,
}

impl View<'_> {
    /// All versions of the consumer.
    fn versions(&self) -> impl Iterator<Item = &ConsumerStatus> {
        let consumers = self.snapshot.consumers().iter();
        consumers.filter(|other| other.id.name == self.one.id.name)
    }

    /// The event that keeps it from continuing.
    fn position(&self) -> Option<i64> {
        let failing = self.one.failing.as_ref();
        let waiting_for = self.one.waiting_for.as_ref();
        failing
            .and_then(|failing| failing.position)
            .or(waiting_for.map(|event| event.position))
    }

    fn head(&self) -> i64 {
        let status = self.snapshot.status.as_ref();
        status.map_or(0, |status| status.frontier.head)
    }

    /// The actions that make sense in the state.
    fn possible(&self, can_reset: bool) -> Vec<ActionKind> {
        let mut kinds = Vec::new();
        match &self.one.state {
            ConsumerState::Stopped { .. } => {
                kinds.push(ActionKind::Resume);
                kinds.extend(self.ways_past());
            }
            ConsumerState::WaitingForRelease { .. } => kinds.extend(self.ways_past()),
            ConsumerState::Paused => kinds.push(ActionKind::Resume),
            ConsumerState::OtherLog { .. } | ConsumerState::New | ConsumerState::HeldBack(_) => {}
            ConsumerState::ScopeChanged { .. } => kinds.push(ActionKind::AcceptScope),
            _ => kinds.push(ActionKind::Pause),
        }
        if self.one.parked > 0 && self.declaration.is_some() {
            kinds.push(ActionKind::RetryParked { position: None });
        }
        if self.one.position.is_none() {
            return kinds;
        }
        if can_reset {
            kinds.push(ActionKind::Rebuild {
                discard_parked: false,
            });
        }
        let has_others = self.versions().count() > 1;
        if has_others && !self.one.is_active {
            kinds.push(ActionKind::Activate { force: false });
        }
        let is_gone = self.declaration.is_none();
        if is_gone && (!has_others || !self.one.is_active) {
            kinds.push(ActionKind::Forget {
                discard_parked: false,
            });
        }
        kinds
    }

    /// What gets segments past the events that they do not get past; the one that the page shows comes first.
    fn ways_past(&self) -> impl Iterator<Item = ActionKind> + use<> {
        let mut positions: Vec<i64> = self.one.segments.iter().filter_map(obstacle_of).collect();
        positions.sort_by_key(|position| (Some(*position) != self.position(), *position));
        let positions = positions.into_iter().take(MOST_OBSTACLES);
        positions
            .flat_map(|position| [ActionKind::Park { position }, ActionKind::Skip { position }])
    }

    fn heading(&self) -> Markup {
        html! {
            div.heading {
                h1 {
                    (name(self.id))
                    " " span #state data-live class={ "state " (class(self.one.state.tone())) } { (self.one.state.words()) }
                }
                (freshness(self.snapshot))
            }
            @if self.versions().count() > 1 {
                nav.versions #versions data-live aria-label="Versions" {
                    @for version in self.versions() {
                        @let id = &version.id;
                        a href=(self.base.consumer(id)) aria-current=[(id == self.id).then_some("page")] {
                            "v" (id.version)
                            @if version.is_active { " active" }
                            " · " (version.state.words())
                            @if version.lag.events > 0 { " · " (events(version.lag, version.position, self.head())) " behind" }
                        }
                    }
                }
            }
        }
    }

    fn facts(&self) -> Markup {
        let one = self.one;
        html! {
            section.panel #facts data-live aria-label="Progress" {
                dl.facts {
                    div { dt { "Checkpoint" } dd {
                        @match one.position { Some(position) => (number(position)), None => "none: no worker has run it" }
                    } }
                    div { dt { "Lag to the head" } dd { (events(one.lag, one.position, self.head())) } }
                    @if one.lag != one.settled_lag {
                        div { dt { "Lag to the frontier" } dd { (self.settled_lag()) } }
                    }
                    div { dt { "Behind" } dd { (or_dash(one.lag.time)) } }
                    div { dt { "Rate" } dd.rate {
                        (sparkline(&self.snapshot.rates(self.id)))
                        span { @match one.rate { Some(now) => (rate(now)), None => "–" } }
                    } }
                    div { dt { "Parked" } dd {
                        @if one.parked > 0 {
                            a href=(self.base.of_consumer(self.id, "parked")) { (count(one.parked, "event")) }
                            " of " (count(one.parked_aggregates, "aggregate"))
                        } @else { "none" }
                    } }
                    div { dt { "Last save" } dd { (ago(one.saved_ago)) } }
                    @if let Some((segments, time)) = one.batches() {
                        div { dt { "In progress" } dd {
                            @match (segments, time) {
                                (1, _) => "a batch",
                                (segments, _) => { (number(segments)) " batches" },
                            }
                            @if let Some(time) = time { @if segments > 1 { ", the longest" } " for " (duration(time)) }
                        } }
                    }
                    @for worker in one.workers.iter().take(MOST_WORKERS) {
                        div { dt { "Batch " (ago(Some(worker.seen_ago))) } dd { bdi { (process(worker)) } ", release " bdi { (worker.release) } } }
                    }
                    @if let Some(others @ 1..) = one.workers.len().checked_sub(MOST_WORKERS) {
                        div { dt { "Other workers" } dd { a href=(self.base.named("processes")) { (number(others)) } } }
                    }
                }
                (self.rebuild())
                @for problem in problems_besides_failures(one) {
                    p.banner.warn { (prose(&problem.of(&one.id))) }
                }
            }
        }
    }

    fn settled_lag(&self) -> String {
        let status = self.snapshot.status.as_ref();
        let settled = status.map_or(0, |status| status.frontier.settled);
        events(self.one.settled_lag, self.one.position, settled)
    }

    /// How far a rebuild is.
    fn rebuild(&self) -> Markup {
        let one = self.one;
        let position = one.position.unwrap_or(0);
        if one.state != ConsumerState::Rebuilding {
            return html! {};
        }
        let (done, total) = (position.unsigned_abs(), one.replay_to.unsigned_abs());
        let percent = done.saturating_mul(100) / total.max(1);
        html! {
            div.rebuild {
                (progress(done, total))
                span { "rebuilding: " (number(done)) " of " (number(total)) ", " (percent) " %"
                    @if let Some(left) = self.time_left() { ", about " (left) " left" } }
            }
        }
    }

    fn time_left(&self) -> Option<String> {
        let rate = self.one.rate.filter(|rate| *rate > 0.0)?;
        if self.one.lag.is_more {
            return None;
        }
        #[allow(clippy::cast_precision_loss)] // an estimate
        let seconds = self.one.lag.events as f64 / rate;
        let left = std::time::Duration::try_from_secs_f64(seconds).ok()?;
        Some(duration(left))
    }

    /// The event that keeps it from continuing, with its content and the error.
    fn obstacle(&self, event: &Result<Option<LogRow>, String>) -> Markup {
        let is_waiting = self.one.failing.is_none();
        if is_waiting && self.one.waiting_for.is_none() {
            return html! {};
        }
        let does = if is_waiting { "Waits" } else { "Fails" };
        html! {
            section.panel.trouble.warn[is_waiting] #obstacle data-live aria-labelledby="obstacle-title" {
                h2 #obstacle-title {
                    (does)
                    @if let Some(position) = self.position() { " at event " a href=(self.base.event(position)) { (number(position)) } }
                }
                @if let Some(failing) = &self.one.failing { (self.failure(failing)) }
                @match event {
                    Ok(Some(row)) => (self.event(row)),
                    Ok(None) => @if self.position().is_some() { p.muted { "The log no longer has the event." } },
                    Err(error) => p.banner.bad { "The event could not be read: " (prose(error)) },
                }
            }
        }
    }

    fn failure(&self, failing: &Failing) -> Markup {
        html! {
            p { "Failed " (count(failing.attempts.into(), "time")) ", last " (ago(Some(failing.failed_ago)))
                @if let Some(wait) = failing.retry_in { ", next attempt in " (duration(wait)) } }
            @if !self.one.failed_releases.is_empty() {
                p.muted {
                    "In " (if self.one.failed_releases.len() == 1 { "release" } else { "the releases" }) " "
                    @for (index, release) in self.one.failed_releases.iter().enumerate() {
                        @if index > 0 { ", " }
                        bdi { (release) }
                    }
                    "; another release tries it once."
                }
            }
            pre.error tabindex="0" role="region" aria-label="Error" { bdi { (failing.error) } }
        }
    }

    fn event(&self, row: &LogRow) -> Markup {
        let event = readable_event(row);
        let (kind, id) = (&*event.aggregate_type, event.aggregate_id.as_str());
        html! {
            p {
                strong { bdi { (event.event_type) } } " v" (event.event_version) " of "
                a href=(self.base.events(&[("type", kind), ("id", id)])) { bdi { (kind) } " " bdi { (id) } }
                @if let Some(time) = readable_time(row) { span.muted { " · " (date(time)) } }
            }
            (payload(row, self.base))
        }
    }

    fn segments(&self) -> Markup {
        let one = self.one;
        if one.segments.is_empty() {
            return html! {};
        }
        html! {
            section.panel #segments data-live aria-labelledby="segments-title" {
                h2 #segments-title { (count(one.segments.len() as u64, "segment")) }
                div.wide { (slices(&one.segments, self.head())) }
                @if one.segments.len() > 1 {
                    table {
                        thead { tr {
                            th scope="col" { "Slices" } th scope="col" { "State" } th.number scope="col" { "Checkpoint" }
                            th.number scope="col" { "Parked" } th scope="col" { "Last save" } th scope="col" { "By" }
                        } }
                        tbody { @for segment in &one.segments { (segment_row(segment, self.base)) } }
                    }
                }
            }
        }
    }

    /// The source of the consumer, if it is in this program.
    fn handlers(&self) -> Markup {
        let entry = declared(&self.id.name, self.id.version);
        let Some(declaration) = self.declaration else {
            return html! { section.panel { p.muted { "This program does not contain the code of this version." } } };
        };
        html! {
            section.panel aria-labelledby="code-title" {
                h2 #code-title { "Code" }
                dl.facts {
                    div { dt { "Declared at" } dd {
                        @match declaration.site { Some(site) => code { (site.file) ":" (site.line) }, None => "by hand" }
                    } }
                    @if let Some(group) = declaration.group { div { dt { "Group" } dd { bdi { (group) } } } }
                    div { dt { "Scope" } dd { (scope(&declaration.scope)) } }
                    @if let Some(table) = declaration.read_model { div { dt { "Read model" } dd { code { (table.name) } ", table " code { (table.name) "_v" (self.id.version) } } } }
                }
                @if let Some(entry) = entry {
                    table {
                        thead { tr { th scope="col" { "Handler" } th scope="col" { "Events" } th scope="col" { "Source" } } }
                        tbody {
                            @for handler in entry.knowledge.handlers {
                                tr {
                                    th scope="row" { code { (handler.method) } }
                                    td data-label="Events" { (handler.events().join(", ")) }
                                    td data-label="Source" { code { (handler.file) ":" (handler.line) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn settings(&self) -> Markup {
        let Some(declaration) = self.declaration else {
            return html! {};
        };
        html! {
            section.panel aria-labelledby="settings-title" {
                h2 #settings-title { "Settings" }
                dl.facts {
                    @for (name, value) in settings(&declaration.settings) {
                        div { dt { (name) } dd { (value) } }
                    }
                }
            }
        }
    }
}

/// The event that a segment has stopped at, or before which it waits for a release.
fn obstacle_of(segment: &SegmentStatus) -> Option<i64> {
    match &segment.state {
        ConsumerState::Stopped { position, .. } => *position,
        ConsumerState::WaitingForRelease { event } => Some(event.position),
        _ => None,
    }
}

/// The event that a segment does not get past, and the first line of the reason.
fn trouble_of(segment: &SegmentStatus) -> Option<(i64, String)> {
    if let ConsumerState::WaitingForRelease { event } = &segment.state {
        return Some((event.position, format!("not known: {event}")));
    }
    let failing = segment.failing.as_ref()?;
    let first = failing.error.lines().next().unwrap_or_default();
    Some((
        failing.position?,
        first.chars().take(MOST_OF_ERROR).collect(),
    ))
}

fn segment_row(segment: &SegmentStatus, base: &Base) -> Markup {
    html! {
        tr {
            th scope="row" { (segment.slices.start) "–" (segment.slices.end - 1) }
            td data-label="State" {
                span class={ "state " (class(segment.state.tone())) } { (segment.state.words()) }
                @if let Some((position, why)) = trouble_of(segment) {
                    div.why { "event " a href=(base.event(position)) { (number(position)) } ": " bdi { (why) } }
                }
            }
            td.number data-label="Checkpoint" { (number(segment.position)) }
            td.number data-label="Parked" { @if segment.parked > 0 { (number(segment.parked)) } @else { "–" } }
            td data-label="Last save" { (last_save(segment)) }
            td.by data-label="By" { @match &segment.worker { Some(worker) => bdi { (process(worker)) }, None => "–" } }
        }
    }
}

/// The command that does the same.
fn command(kind: ActionKind, consumer: &ConsumerId) -> String {
    let name = on_command_line(consumer);
    match kind {
        ActionKind::Park { position } | ActionKind::Skip { position } => {
            format!("{} {name} {position}", kind.name())
        }
        ActionKind::RetryParked { .. } => format!("parked retry {name}"),
        ActionKind::Activate { .. } => format!("activate {} {}", consumer.name, consumer.version),
        _ => format!("{} {name}", kind.name()),
    }
}

fn scope(kinds: &[std::sync::Arc<str>]) -> String {
    if kinds.is_empty() {
        return "every event".to_owned();
    }
    kinds.join(", ")
}

fn settings(settings: &Settings) -> [(&'static str, String); 8] {
    let on_error = match settings.on_error {
        OnError::Stop => "stop",
        OnError::Park => "park",
        OnError::Skip => "skip",
    };
    let start_from = match settings.start_from {
        StartFrom::Beginning => "the beginning",
        StartFrom::Now => "now",
    };
    let backoff = settings.backoff;
    let limit = settings.handler_timeout;
    [
        ("On error", on_error.to_owned()),
        ("Retries", settings.retries.to_string()),
        (
            "Backoff",
            format!("{} to {}", duration(backoff.min), duration(backoff.max)),
        ),
        ("Starts from", start_from.to_owned()),
        ("Batch size", number(settings.batch_size)),
        ("Batch time", duration(settings.batch_time)),
        (
            "Handler timeout",
            limit.map_or_else(|| "none".to_owned(), duration),
        ),
        ("Segments", settings.segments.to_string()),
    ]
}
