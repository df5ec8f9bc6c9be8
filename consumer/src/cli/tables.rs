//! What the commands show, as text for people.

use std::sync::Arc;

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table,
};
use serde_json::json;
use sqlx::Database;

use super::console::Console;
use crate::admin::problems::problems;
use crate::admin::text::{count, duration, number, rate};
use crate::admin::{
    ConsumerId, ConsumerState, ConsumerStatus, Explanation, FrontierStatus, Lag, ParkedEvent,
    Status, UnknownEvents, processes_of,
};
use crate::backend::Schema;
use crate::contract::{OnError, PersistedEvent};
use crate::registry::{Declaration, Registered};

/// A table without borders. Some columns are aligned to the right; only some are wrapped where the console
/// is narrow, since names, ids and numbers are copied from the others.
fn table(console: &Console, header: &[&str], right: &[usize], wrapped: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = console.width {
        table.set_width(width);
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    if console.has_colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    let bold = |text: &&str| Cell::new(text).add_attribute(Attribute::Bold);
    table.set_header(header.iter().map(bold).collect::<Vec<_>>());
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if !wrapped.contains(&index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
}

/// The lines of a table, without trailing blanks.
fn text(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// The consumers of the program, as declared.
pub(super) fn list<DB: Database>(console: &Console, consumers: &[Registered<DB>]) -> String {
    let header = ["CONSUMER", "V", "GROUP", "SCOPE", "ON ERROR", "DECLARED AT"];
    let mut table = table(console, &header, &[1], &[3, 5]);
    for Registered { declaration, .. } in consumers {
        table.add_row([
            declaration.name.to_string(),
            declaration.version.to_string(),
            declaration.group.unwrap_or("-").to_owned(),
            scope(declaration.scope.iter().map(|kind| &**kind)),
            on_error(declaration).to_owned(),
            declared_at(declaration).unwrap_or_else(|| "by hand".to_owned()),
        ]);
    }
    text(&table)
}

/// The consumers of the program, as declared, for other programs.
pub(super) fn declarations<DB: Database>(consumers: &[Registered<DB>]) -> serde_json::Value {
    let declarations = consumers.iter().map(|Registered { declaration, .. }| {
        json!({
            "name": &*declaration.name,
            "version": declaration.version,
            "group": declaration.group,
            "scope": declaration.scope.iter().map(|kind| &**kind).collect::<Vec<_>>(),
            "on_error": on_error(declaration),
            "declared_at": declared_at(declaration),
        })
    });
    declarations.collect()
}

fn on_error(declaration: &Declaration) -> &'static str {
    match declaration.settings.on_error {
        OnError::Stop => "stop",
        OnError::Park => "park",
        OnError::Skip => "skip",
    }
}

fn declared_at(declaration: &Declaration) -> Option<String> {
    let site = declaration.site?;
    Some(format!("{}:{}", site.file, site.line))
}

fn scope<'a>(kinds: impl Iterator<Item = &'a str>) -> String {
    let kinds: Vec<&str> = kinds.collect();
    if kinds.is_empty() {
        "every event".to_owned()
    } else {
        kinds.join(", ")
    }
}

/// The state of every consumer, with its rate if that is known.
pub(super) fn status(console: &Console, status: &Status) -> String {
    let mut text = if status.consumers.is_empty() {
        "this program has no consumers, and there is no checkpoint".to_owned()
    } else {
        text(&status_table(console, status))
    };
    // One of several, so people have to know which.
    if status.log != Schema::default().log_name() {
        text.insert_str(0, &format!("log {}\n\n", status.log));
    }
    for line in status.consumers.iter().flat_map(problems) {
        text.push_str("\n\n");
        text.push_str(&line);
    }
    text.push_str("\n\n");
    text.push_str(&frontier(&status.frontier));
    text
}

fn status_table(console: &Console, status: &Status) -> Table {
    let has_rates = status.consumers.iter().any(|one| one.rate.is_some());
    let mut header = vec!["CONSUMER", "STATE", "POSITION", "LAG", "BEHIND", "PARKED"];
    header.extend(has_rates.then_some("RATE"));
    let mut table = table(console, &header, &[2, 3, 4, 5, 6], &[]);
    for one in &status.consumers {
        let parked = Some(one.parked).filter(|&parked| parked > 0);
        let mut row = vec![
            Cell::new(name(status, one)),
            Cell::new(state(&one.state)).fg(colour(&one.state)),
            Cell::new(or_dash(one.position, number)),
            Cell::new(lag(one.lag)),
            Cell::new(or_dash(one.lag.time, duration)),
            Cell::new(or_dash(parked, number)),
        ];
        row.extend(has_rates.then(|| Cell::new(or_dash(one.rate, rate))));
        table.add_row(row);
    }
    table
}

fn or_dash<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), text)
}

/// A state in words.
fn state(state: &ConsumerState) -> String {
    state.name().replace('_', " ")
}

/// The name, with the version if there are several or it is not the first.
fn name(status: &Status, one: &ConsumerStatus) -> String {
    let same = |other: &&ConsumerStatus| other.name == one.name;
    let has_others = status.consumers.iter().filter(same).count() > 1;
    match (has_others, one.is_active) {
        (true, true) => format!("{} v{} active", one.name, one.version),
        (true, false) => format!("{} v{}", one.name, one.version),
        (false, _) => one.id().to_string(),
    }
}

/// The processes that handled events, the most recent first.
pub(super) fn processes(console: &Console, status: &Status) -> String {
    let processes = processes_of(&status.consumers);
    if processes.is_empty() {
        return "no process has handled an event yet".to_owned();
    }
    let header = ["PROCESS", "RELEASE", "LAST BATCH", "CONSUMERS"];
    let mut table = table(console, &header, &[2], &[3]);
    for (worker, consumers) in processes {
        let names: Vec<String> = consumers.iter().map(|one| name(status, one)).collect();
        table.add_row([
            format!("{} on {}", worker.pid, worker.host),
            worker.release.clone(),
            duration(worker.seen_ago),
            names.join(", "),
        ]);
    }
    text(&table)
}

/// The events of the log that the program does not know.
pub(super) fn unknown(console: &Console, events: &[UnknownEvents]) -> String {
    if events.is_empty() {
        return "this program knows every event of the log that is in the scope of a consumer"
            .to_owned();
    }
    let header = [
        "CONSUMER",
        "EVENT",
        "VERSION",
        "AGGREGATE",
        "EVENTS",
        "FIRST",
        "LAST",
    ];
    let mut table = table(console, &header, &[2, 4, 5, 6], &[]);
    for one in events {
        let consumer = ConsumerId {
            name: Arc::clone(&one.consumer),
            version: one.version,
        };
        table.add_row([
            consumer.to_string(),
            one.event_type.clone(),
            one.event_version.to_string(),
            one.aggregate_type.clone(),
            number(one.events),
            one.first.to_string(),
            one.last.to_string(),
        ]);
    }
    text(&table)
}

fn colour(state: &ConsumerState) -> Color {
    match state {
        ConsumerState::Running => Color::Green,
        ConsumerState::Stopped { .. }
        | ConsumerState::ScopeChanged { .. }
        | ConsumerState::HeldBack(_)
        | ConsumerState::OtherLog { .. } => Color::Red,
        ConsumerState::Retrying { .. }
        | ConsumerState::WaitingForRelease { .. }
        | ConsumerState::Paused
        | ConsumerState::Detached => Color::Yellow,
        _ => Color::Cyan,
    }
}

fn lag(lag: Lag) -> String {
    let more = if lag.is_more { "+" } else { "" };
    format!("{}{more}", number(lag.events))
}

/// How far the log is settled, and what holds it up.
pub(super) fn frontier(frontier: &FrontierStatus) -> String {
    if let Some(problem) = &frontier.problem {
        return format!("the frontier is unknown: {problem}");
    }
    let (settled, head) = (number(frontier.settled), number(frontier.head));
    if frontier.settled >= frontier.head {
        return format!("the log is settled up to its head, {head}");
    }
    let mut lines = vec![format!(
        "the log is settled up to {settled}, its head is {head}"
    )];
    let waits = |blocker| format!("the frontier waits at {settled} for {blocker}");
    lines.extend(frontier.blockers.iter().map(waits));
    lines.join("\n")
}

/// What became of an event in a consumer.
pub(super) fn explanation(explanation: &Explanation) -> String {
    let consumer = ConsumerId {
        name: Arc::clone(&explanation.consumer),
        version: explanation.version,
    };
    let mut lines = vec![format!("consumer    {consumer}")];
    let Some(event) = &explanation.event else {
        lines.push(format!("event       {}", explanation.outcome));
        return lines.join("\n");
    };
    lines.extend([
        format!(
            "event       {} version {}",
            event.event_type, event.event_version
        ),
        format!(
            "aggregate   {} {}",
            event.aggregate_type, event.aggregate_id
        ),
        format!("outcome     {}", explanation.outcome),
    ]);
    let checkpoint = explanation.checkpoint.map(number);
    lines.extend(checkpoint.map(|checkpoint| format!("checkpoint  {checkpoint}")));
    lines.push(if explanation.is_replay {
        "is replay   yes".to_owned()
    } else {
        "is replay   no".to_owned()
    });
    lines.extend(explanation.handlers.iter().map(|handler| {
        format!(
            "handler     {} at {}:{}",
            handler.method, handler.file, handler.line
        )
    }));
    lines.join("\n")
}

/// The parked events of a consumer.
pub(super) fn parked(console: &Console, events: &[ParkedEvent]) -> String {
    if events.is_empty() {
        return "no event is parked".to_owned();
    }
    let header = ["POSITION", "AGGREGATE", "FAILED", "PARKED", "WHY"];
    let (facts, _) = header.split_at(header.len() - 1);
    let mut narrow = table(console, facts, &[0, 2, 3], &[]);
    narrow.add_rows(events.iter().map(parked_facts));
    if has_room_beside(console, &narrow) {
        let mut wide = table(console, &header, &[0, 2, 3], &[4]);
        wide.add_rows(events.iter().map(|one| {
            let [position, aggregate, failed, parked] = parked_facts(one);
            [position, aggregate, failed, parked, why(one)]
        }));
        return text(&wide);
    }
    // Each reason on a line of its own.
    let lines = text(&narrow);
    let mut lines = lines.lines().map(str::to_owned);
    let mut all: Vec<String> = lines.next().into_iter().collect();
    for (line, one) in lines.zip(events) {
        all.extend([line, format!("          {}", why(one))]);
    }
    all.join("\n")
}

/// Whether a text fits beside a table.
fn has_room_beside(console: &Console, table: &Table) -> bool {
    /// A narrower text has too many lines.
    const NARROWEST: usize = 28;
    let Some(width) = console.width else {
        return true;
    };
    // The header may be styled.
    let widest = table.lines().skip(1).map(|line| line.chars().count()).max();
    widest.unwrap_or(0) + NARROWEST <= usize::from(width)
}

/// A row without its reason.
fn parked_facts(one: &ParkedEvent) -> [String; 4] {
    let failed = if one.has_failed {
        number(one.attempts)
    } else {
        "-".to_owned()
    };
    [
        one.position.to_string(),
        format!("{} {}", one.aggregate_type, one.aggregate_id),
        failed,
        duration(one.parked_for),
    ]
}

fn why(one: &ParkedEvent) -> String {
    match &one.error {
        Some(error) if one.has_failed => error.clone(),
        _ => "waits behind an earlier event".to_owned(),
    }
}

/// A parked event with its payload.
pub(super) fn parked_event(parked: &ParkedEvent, event: Option<&PersistedEvent>) -> String {
    let mut lines = vec![
        format!("position    {}", parked.position),
        format!(
            "aggregate   {} {}",
            parked.aggregate_type, parked.aggregate_id
        ),
        format!("parked for  {}", duration(parked.parked_for)),
        if parked.has_failed {
            format!("failed      {}", count(parked.attempts.into(), "time"))
        } else {
            "waits behind an earlier event of its aggregate".to_owned()
        },
    ];
    let error = parked.error.iter();
    lines.extend(error.map(|error| format!("error       {error}")));
    match event {
        None => lines.push("the event is no longer in the log, or cannot be decoded".to_owned()),
        Some(event) => lines.extend(event_lines(event)),
    }
    lines.join("\n")
}

fn event_lines(event: &PersistedEvent) -> [String; 4] {
    [
        format!(
            "event       {} version {}",
            event.event_type, event.event_version
        ),
        format!("event id    {}", event.event_id),
        format!("created at  {}", event.created_at.to_rfc3339()),
        format!("payload     {}", payload(event)),
    ]
}

fn payload(event: &PersistedEvent) -> String {
    std::str::from_utf8(&event.payload).map_or_else(
        |_| {
            format!(
                "{} that are not text",
                count(event.payload.len() as u64, "byte")
            )
        },
        str::to_owned,
    )
}
