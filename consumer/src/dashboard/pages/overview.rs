//! The overview: the frontier, what needs attention, and every consumer.

use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Section, freshness, page};
use crate::admin::text::{count, number, rate};
use crate::admin::{ConsumerStatus, FrontierStatus, WorkerStatus, processes_of};
use crate::backend::Backend;
use crate::dashboard::app::Shared;
use crate::dashboard::figures::{slices, sparkline, strip};
use crate::dashboard::snapshots::Snapshot;
use crate::dashboard::urls::Base;
use crate::dashboard::words::{ago, class, events, in_a_batch, or_dash, problem, process, prose};

/// Which consumers to show.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Filter {
    /// A part of the name, or of the group.
    #[serde(default)]
    q: String,
}

impl Filter {
    fn admits(&self, one: &ConsumerStatus) -> bool {
        let wanted = self.q.trim().to_lowercase();
        one.id.name.to_lowercase().contains(&wanted)
            || one
                .group
                .is_some_and(|group| group.to_lowercase() == wanted)
    }
}

pub(crate) async fn overview<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
    Query(filter): Query<Filter>,
) -> Html<String> {
    let snapshot = app.snapshots.current(&app.admin).await;
    let consumers = snapshot.consumers();
    let shown: Vec<&ConsumerStatus> = consumers.iter().filter(|one| filter.admits(one)).collect();
    let content = html! {
        div.heading {
            h1 { "Consumers" }
            (freshness(&snapshot))
        }
        @if let Some(status) = &snapshot.status { (frontier(&status.frontier, &base)) }
        (attention(&snapshot, &base))
        @if consumers.len() > 10 || !filter.q.is_empty() { (search(&filter)) }
        (table(&shown, consumers.is_empty(), &snapshot, &base))
    };
    page(&base, Section::Overview, "Consumers", &content)
}

/// How far the log is settled.
pub(crate) fn frontier(frontier: &FrontierStatus, base: &Base) -> Markup {
    let waiting = frontier.head - frontier.settled;
    html! {
        section.panel #frontier data-live aria-labelledby="frontier-title" {
            h2 #frontier-title { "Log" }
            @if let Some(problem) = &frontier.problem {
                p.banner.bad role="alert" { "The frontier is unknown: " (problem) }
            } @else {
                (strip(frontier))
                dl.facts {
                    div { dt { "Settled" } dd { a href=(base.event(frontier.settled)) { (number(frontier.settled)) } } }
                    @if waiting > 0 {
                        div { dt { "Waiting" } dd.warn-text { (count(waiting.unsigned_abs(), "position")) } }
                    }
                    div { dt { "Head" } dd { a href=(base.event(frontier.head)) { (number(frontier.head)) } } }
                }
                @for blocker in &frontier.blockers {
                    p.banner.warn { "Blocked by " bdi { (blocker) } ": no consumer is given an event after position " (number(frontier.settled)) " until this transaction ends." }
                }
            }
        }
    }
}

/// The consumers that need attention.
fn attention(snapshot: &Snapshot, base: &Base) -> Markup {
    const SHOWN: usize = 12;
    let consumers = snapshot.consumers();
    let frontier = snapshot.status.as_ref().map(|status| &status.frontier);
    let is_settling = frontier.is_some_and(|one| one.problem.is_none() && one.blockers.is_empty());
    let troubled: Vec<(&ConsumerStatus, String)> = consumers
        .iter()
        .filter_map(|one| Some((one, problem(one)?)))
        .collect();
    let parked: u64 = consumers.iter().map(|one| one.parked).sum();
    html! {
        section #attention data-live aria-label="Needs attention" {
            p.summary role="status" {
                @if consumers.is_empty() {
                    "This program has no consumers, and none has run on this log. Declare one with " code { "#[consumer(…)]" } " and call " code { ".discover()" } ", or add one with " code { ".consumer(…)" } "."
                } @else if troubled.is_empty() {
                    (count(consumers.len() as u64, "consumer"))
                    @if is_settling { ", no problems" } @else { ", no other problems" }
                } @else {
                    strong { (count(troubled.len() as u64, "consumer")) }
                    @if troubled.len() == 1 { " needs attention" } @else { " need attention" }
                }
                @if parked > 0 { " · " (count(parked, "parked event")) }
                @if let Some((latest, _)) = processes_of(consumers).first() {
                    " · last batch " (ago(Some(latest.seen_ago))) " by "
                    a href=(base.named("processes")) { bdi { (process(latest)) } }
                }
            }
            @if !troubled.is_empty() {
                ul.attention {
                    @for (one, why) in troubled.iter().take(SHOWN) {
                        li {
                            span class={ "state " (class(one.state.tone())) } { (one.state.words()) }
                            " " a href=(base.consumer(&one.id)) { (super::layout::name(&one.id)) }
                            " " span.why { (prose(why)) }
                        }
                    }
                    @if troubled.len() > SHOWN {
                        li.muted { "and " (number(troubled.len() - SHOWN)) " more in the table" }
                    }
                }
            }
        }
    }
}

fn search(filter: &Filter) -> Markup {
    html! {
        form.search method="get" role="search" {
            label for="q" { "Name or group" }
            input #q type="search" name="q" value=(filter.q) autocomplete="off" spellcheck="false";
            button { "Filter" }
        }
    }
}

fn table(shown: &[&ConsumerStatus], is_empty: bool, snapshot: &Snapshot, base: &Base) -> Markup {
    let head = snapshot
        .status
        .as_ref()
        .map_or(0, |status| status.frontier.head);
    html! {
        div #consumers data-live {
            @if shown.is_empty() {
                @if !is_empty { p.empty { "No consumer has such a name or group." } }
            } @else {
                table.consumers {
                    caption.hidden { "All consumers" }
                    thead { tr {
                        th scope="col" { "Consumer" }
                        th scope="col" { "State" }
                        th.number scope="col" { "Lag" }
                        th.number scope="col" { "Behind" }
                        th scope="col" { "Rate" }
                        th scope="col" { "Slices" }
                        th.number scope="col" { "Parked" }
                        th scope="col" { "Last save" }
                        th scope="col" { "By" }
                    } }
                    tbody {
                        @for versions in shown.chunk_by(|one, next| one.id.name == next.id.name) {
                            @for (index, one) in versions.iter().enumerate() {
                                (row(one, (index, versions.len()), head, snapshot, base))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A row of the table; it is one of several if there are other versions.
fn row(
    one: &ConsumerStatus,
    (index, versions): (usize, usize),
    head: i64,
    snapshot: &Snapshot,
    base: &Base,
) -> Markup {
    let rates = snapshot.rates(&one.id);
    html! {
        tr.beside[index > 0] {
            th scope="row" {
                a href=(base.consumer(&one.id)) { (super::layout::name(&one.id)) }
                @if one.is_active && versions > 1 { " " span.badge { "active" } }
                @if let Some(group) = one.group { " " span.muted { bdi { (group) } } }
            }
            td data-label="State" { span class={ "state " (class(one.state.tone())) } { (one.state.words()) } }
            td.number data-label="Lag" { (events(one.lag, one.position, head)) }
            td.number data-label="Behind" { (or_dash(one.lag.time)) }
            td.rate data-label="Rate" {
                (sparkline(&rates))
                span { @match one.rate { Some(now) => (rate(now)), None => "–" } }
            }
            td.slices-cell data-label="Slices" {
                @if one.segments.is_empty() { "–" } @else {
                    (slices(&one.segments, head))
                    span { (number(one.segments.len())) }
                }
            }
            td.number data-label="Parked" {
                @if one.parked > 0 { a href=(base.of_consumer(&one.id, "parked")) { (number(one.parked)) } } @else { "–" }
            }
            td data-label="Last save" { (ago(one.saved_ago)) }
            td.by data-label="By" {
                @if let Some((_, time)) = one.batches() {
                    (in_a_batch(time))
                    @if !one.workers.is_empty() { "; last by " (workers(&one.workers)) }
                } @else { (workers(&one.workers)) }
            }
        }
    }
}

/// The process that handled events last, and how many others did.
fn workers(workers: &[WorkerStatus]) -> Markup {
    html! {
        @match workers {
            [] => "–",
            [last, others @ ..] => {
                bdi { (process(last)) }
                @if !others.is_empty() { " and " (count(others.len() as u64, "other")) }
            }
        }
    }
}
