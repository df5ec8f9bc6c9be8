//! Where work has been done lately.

use std::time::Duration;

use axum::extract::State;
use axum::response::Html;
use maud::{Markup, html};

use super::layout::{Section, freshness, name, page};
use crate::admin::text::number;
use crate::admin::{ConsumerStatus, SegmentStatus, processes_of};
use crate::backend::{Backend, ConsumerId};
use crate::dashboard::app::Shared;
use crate::dashboard::urls::Base;
use crate::dashboard::words::{ago, class, last_save, process};

/// The most rows of a table.
const SHOWN: usize = 500;

pub(crate) async fn processes<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
) -> Html<String> {
    let snapshot = app.snapshots.current(&app.admin).await;
    let segments = latest_first(snapshot.consumers());
    let content = html! {
        div.heading { h1 { "Processes" } (freshness(&snapshot)) }
        p.muted { "A process is known by the batches that it saved: one that has no events to handle saves nothing, and one in its first batch is only known by the segment that it has claimed." }
        div #processes data-live {
            @match table_of_processes(snapshot.consumers(), &base) {
                Some(table) => (table),
                None => p.empty { "No process has handled an event yet." },
            }
        }
        h2 { "Segments" }
        div #activity data-live {
            @if segments.is_empty() { p.empty { "No worker has saved a checkpoint yet." } }
            @else { (table(&segments, &base)) }
        }
    };
    page(&base, Section::Processes, "Processes", &content)
}

/// The processes, those with the latest batch first; `None` if there are none.
fn table_of_processes(consumers: &[ConsumerStatus], base: &Base) -> Option<Markup> {
    let processes = processes_of(consumers);
    (!processes.is_empty()).then(|| {
        html! {
            table.processes {
                caption.hidden { "Processes, those with the latest batch first" }
                thead { tr {
                    th scope="col" { "Process" } th scope="col" { "Release" }
                    th scope="col" { "Last batch" } th scope="col" { "Consumers" }
                } }
                tbody {
                    @for (worker, consumers) in processes.iter().take(SHOWN) {
                        tr {
                            th scope="row" { bdi { (process(worker)) } }
                            td data-label="Release" { bdi { (worker.release) } }
                            td data-label="Last batch" { (ago(Some(worker.seen_ago))) }
                            td data-label="Consumers" {
                                @for (index, one) in consumers.iter().enumerate() {
                                    @if index > 0 { ", " }
                                    a href=(base.consumer(&one.id)) { (name(&one.id)) }
                                }
                            }
                        }
                    }
                }
            }
            @if processes.len() > SHOWN { p.muted { "and " (number(processes.len() - SHOWN)) " more" } }
        }
    })
}

/// A segment and its consumer.
type Active<'a> = (&'a ConsumerId, &'a SegmentStatus);

/// All segments, those with the latest save first.
fn latest_first(consumers: &[ConsumerStatus]) -> Vec<Active<'_>> {
    let mut activity: Vec<Active<'_>> = consumers
        .iter()
        .flat_map(|one| one.segments.iter().map(|segment| (&one.id, segment)))
        .collect();
    activity.sort_by_key(|(_, segment)| segment.saved_ago.unwrap_or(Duration::MAX));
    activity
}

fn table(activity: &[Active<'_>], base: &Base) -> Markup {
    html! {
        table {
            caption.hidden { "Segments, those with the latest save first" }
            thead { tr {
                th scope="col" { "Consumer" } th scope="col" { "Slices" } th scope="col" { "State" }
                th.number scope="col" { "Checkpoint" } th scope="col" { "Last save" } th scope="col" { "By" }
            } }
            tbody {
                @for (id, segment) in activity.iter().take(SHOWN) {
                    tr {
                        th scope="row" { a href=(base.consumer(id)) { (name(id)) } }
                        td data-label="Slices" { (segment.slices.start) "–" (segment.slices.end - 1) }
                        td data-label="State" { span class={ "state " (class(segment.state.tone())) } { (segment.state.words()) } }
                        td.number data-label="Checkpoint" { (number(segment.position)) }
                        td data-label="Last save" { (last_save(segment)) }
                        td.by data-label="By" { @match &segment.worker { Some(worker) => bdi { (process(worker)) }, None => "–" } }
                    }
                }
            }
        }
        @if activity.len() > SHOWN { p.muted { "and " (number(activity.len() - SHOWN)) " more" } }
    }
}
