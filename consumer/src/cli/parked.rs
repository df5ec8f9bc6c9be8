//! The commands on parked events.

use crate::contract::chain;
use serde::Serialize;

use super::args::{Consumer, EventOf, Format, Parked, SkipEvent};
use super::commands::{print, show};
use super::console::Console;
use super::error::Outcome;
use super::exit::Exit;
use super::tables;
use crate::admin::{Admin, AdminError, ConsumerId, ParkedEvent, Retried, Target, text};
use crate::backend::Backend;

impl Parked {
    pub(super) async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        match self {
            Self::List {
                name: None, format, ..
            } => list_all(&format, admin, console).await,
            Self::List {
                name: Some(name),
                of_version,
                format,
            } => {
                let consumer = Consumer { name, of_version };
                list(consumer.target(), &format, admin, console).await
            }
            Self::Show(EventOf { consumer, position }) => {
                let consumer = admin.find(consumer.target()).await?;
                let (parked, _) = admin.parked_event(&consumer, position).await?;
                let event = admin.event_at(position).await?;
                Ok(print(
                    console,
                    tables::parked_event(&consumer, &parked, event.as_ref()),
                ))
            }
            Self::Retry { consumer, position } => {
                let retried = admin.retry_parked(consumer.target(), position).await?;
                Ok(report(&retried, console))
            }
            Self::Skip(skip) => skip_parked(&skip, admin, console).await,
        }
    }
}

async fn list<DB: Backend>(
    target: Target,
    format: &Format,
    admin: &Admin<DB>,
    console: &Console,
) -> Outcome {
    let events = admin.parked(target).await?;
    show(console, format, &events, || {
        tables::parked(console, &events)
    })
}

/// The parked events of one consumer among all.
#[derive(Serialize)]
struct ParkedBy {
    consumer: String,
    version: u32,
    parked: Vec<ParkedEvent>,
}

async fn list_all<DB: Backend>(format: &Format, admin: &Admin<DB>, console: &Console) -> Outcome {
    let mut all = Vec::new();
    for consumer in admin.with_parked().await? {
        let parked = admin.parked(&consumer).await?;
        all.push((consumer, parked));
    }
    if format.json {
        let all = all.into_iter().map(|(consumer, parked)| ParkedBy {
            consumer: consumer.name.to_string(),
            version: consumer.version,
            parked,
        });
        let all: Vec<ParkedBy> = all.collect();
        console.json(&serde_json::to_string_pretty(&all)?);
        return Ok(Exit::Done);
    }
    Ok(print(console, by_consumer(&all, console)))
}

fn by_consumer(all: &[(ConsumerId, Vec<ParkedEvent>)], console: &Console) -> String {
    let tables = all.iter().map(|(consumer, events)| {
        let table = tables::parked(console, events);
        format!("{consumer}\n{table}")
    });
    match all {
        [] => tables::parked(console, &[]),
        _ => tables.collect::<Vec<_>>().join("\n\n"),
    }
}

fn report(retried: &Retried, console: &Console) -> Exit {
    for failed in &retried.failed {
        console.line(text::one_line(&chain(failed).to_string()));
    }
    console.line(format!("{} handled", text::count(retried.handled, "event")));
    let is_interrupted = |error: &AdminError| matches!(error, AdminError::Interrupted { .. });
    if retried.failed.is_empty() {
        Exit::Done
    } else if retried.failed.iter().all(is_interrupted) {
        Exit::Failed
    } else {
        Exit::Unwell
    }
}

async fn skip_parked<DB: Backend>(
    skip: &SkipEvent,
    admin: &Admin<DB>,
    console: &Console,
) -> Outcome {
    let EventOf { consumer, position } = &skip.event;
    let id = admin.find(consumer.target()).await?;
    admin.parked_event(&id, *position).await?;
    let question = format!("{id} will never handle event {position}. Skip it?");
    console.confirm(skip.confirmed.yes, &question)?;
    let behind = admin.skip_parked(&id, *position).await?;
    console.line(format!("event {position} is skipped"));
    if behind > 0 {
        let later = text::count(behind, "later event");
        let are = if behind == 1 { "is" } else { "are" };
        console.line(format!(
            "{later} of its aggregate {are} still parked; run `parked retry {consumer}`"
        ));
    }
    Ok(Exit::Done)
}
