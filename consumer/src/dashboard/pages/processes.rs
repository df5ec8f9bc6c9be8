//! Where work has been done lately.

use std::time::Duration;

use axum::extract::State;
use axum::response::Html;
use maud::{Markup, html};

use super::layout::{Section, freshness, name, page};
use crate::admin::text::number;
use crate::admin::{ConsumerStatus, SegmentStatus};
use crate::backend::{Backend, ConsumerId};
use crate::dashboard::app::Shared;
use crate::dashboard::urls::Base;
use crate::dashboard::words::{ago, state, tone};

pub(crate) async fn processes<DB: Backend>(
    State(app): State<Shared<DB>>,
    base: Base,
) -> Html<String> {
    let snapshot = app.snapshots.current(&app.admin).await;
    let activity = activity(snapshot.consumers());
    let content = html! {
        div.heading { h1 { "Processes" } (freshness(&snapshot)) }
        p.muted { "The latest saves of all processes. An idle segment saves nothing." }
        div #activity data-live {
            @if activity.is_empty() { p.empty { "No worker has saved a checkpoint yet." } }
            @else { (table(&activity, &base)) }
        }
    };
    page(&base, Section::Processes, "Processes", &content)
}

/// A segment and its consumer.
type Active<'a> = (ConsumerId, &'a SegmentStatus);

/// All segments, those with the latest save first.
fn activity(consumers: &[ConsumerStatus]) -> Vec<Active<'_>> {
    let mut activity: Vec<Active<'_>> = consumers
        .iter()
        .flat_map(|one| one.segments.iter().map(|segment| (one.id(), segment)))
        .collect();
    activity.sort_by_key(|(_, segment)| segment.saved_ago.unwrap_or(Duration::MAX));
    activity
}

fn table(activity: &[Active<'_>], base: &Base) -> Markup {
    const SHOWN: usize = 500;
    html! {
        table {
            caption.hidden { "Segments, those with the latest save first" }
            thead { tr {
                th scope="col" { "Consumer" } th scope="col" { "Slices" } th scope="col" { "State" }
                th.number scope="col" { "Checkpoint" } th scope="col" { "Last save" }
            } }
            tbody {
                @for (id, segment) in activity.iter().take(SHOWN) {
                    tr {
                        th scope="row" { a href=(base.consumer(id)) { (name(id)) } }
                        td data-label="Slices" { (segment.slices.start) "–" (segment.slices.end - 1) }
                        td data-label="State" { span class={ "state " (tone(&segment.state)) } { (state(&segment.state)) } }
                        td.number data-label="Checkpoint" { (number(segment.position)) }
                        td data-label="Last save" { (ago(segment.saved_ago)) }
                    }
                }
            }
        }
        @if activity.len() > SHOWN { p.muted { "and " (number(activity.len() - SHOWN)) " more" } }
    }
}
