//! The frame of all pages.

use axum::response::Html;
use maud::{DOCTYPE, Markup, html};

use crate::backend::{ConsumerId, LogRow, readable_event, readable_payload};
use crate::dashboard::payload::{Shown, show};
use crate::dashboard::snapshots::Snapshot;
use crate::dashboard::urls::Base;
use crate::dashboard::words::{bytes, clock, prose};

/// The entry of the navigation that a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Overview,
    Events,
    Processes,
}

/// A whole page.
pub(crate) fn page(base: &Base, section: Section, title: &str, content: &Markup) -> Html<String> {
    let link = |to: Section, address: String, text: &str| {
        html! {
            a href=(address) aria-current=[(to == section).then_some("page")] { (text) }
        }
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="stylesheet" href=(base.named("style.css"));
                script defer src=(base.named("live.js")) data-stream=(base.named("live")) {}
            }
            body {
                a.skip href="#main" { "Skip to content" }
                header.top {
                    nav aria-label="Pages" {
                        (link(Section::Overview, base.overview(), "Consumers"))
                        (link(Section::Events, base.named("events"), "Events"))
                        (link(Section::Processes, base.named("processes"), "Processes"))
                    }
                }
                main #main { (content) }
            }
        }
    };
    Html(page.into_string())
}

/// When a page was made, and why it may be out of date.
pub(crate) fn freshness(snapshot: &Snapshot) -> Markup {
    html! {
        div #freshness data-live {
            @match &snapshot.error {
                Some(error) => p.banner.bad role="alert" {
                    "The state could not be read at " (clock(snapshot.at)) ": " (prose(error))
                    @if snapshot.status.is_some() { ". This is the last one known." }
                },
                None => p.muted.updated { "as of " (clock(snapshot.at)) },
            }
        }
    }
}

/// The name of a consumer, with its version unless that is the first.
pub(crate) fn name(consumer: &ConsumerId) -> Markup {
    html! {
        bdi { (consumer.name) }
        @if consumer.version > 1 { " " span.version { "v" (consumer.version) } }
    }
}

/// The payload of an event, and why the event cannot be decoded, if it cannot.
pub(crate) fn payload(row: &LogRow, base: &Base) -> Markup {
    let position = readable_event(row).global_position;
    html! {
        @if let Err(unreadable) = row {
            p.banner.bad {
                "The event cannot be decoded: " (unreadable.error)
                ". Below is what can be read of it."
            }
        }
        @match readable_payload(row) {
            Some(bytes) => (content("Payload", &show(bytes), bytes.len(), Some(base.payload(position)))),
            None => p.muted { "The payload is what cannot be decoded." },
        }
    }
}

/// The content of an event, or of its metadata.
pub(crate) fn content(label: &str, shown: &Shown, size: usize, download: Option<String>) -> Markup {
    html! {
        figure.content {
            figcaption {
                (label) ", " (shown.kind.name()) ", " (bytes(size as u64))
                @if shown.is_cut { ", cut" }
                @if let Some(address) = download {
                    " · " a href=(address) download { "Download" }
                }
            }
            pre tabindex="0" role="region" aria-label=(label) { bdi { (shown.text) } }
        }
    }
}
