//! What the tools show, as text for people.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table,
};
use sqlx::Database;

use super::console::Console;
use crate::PersistedEvent;
use crate::admin::{ConsumerState, ConsumerStatus, FrontierStatus, Lag, ParkedEvent, Status};
use crate::contract::OnError;
use crate::registry::Registered;

/// A table without lines, as wide as the console.
fn table(console: &Console, header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_width(console.width);
    table.set_content_arrangement(ContentArrangement::Dynamic);
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
    }
    table
}

/// The lines of a table, without the blanks that fill it up to its width.
fn text(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// Every consumer of the program, as it was declared.
pub(super) fn list<DB: Database>(console: &Console, consumers: &[Registered<DB>]) -> String {
    let header = ["CONSUMER", "V", "GROUP", "SCOPE", "ON ERROR", "DECLARED AT"];
    let mut table = table(console, &header, &[1]);
    // A name is to be copied: it stays in one piece as long as anything else can be folded.
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    for one in consumers {
        let declaration = &one.declaration;
        let site = declaration.site.map_or_else(
            || "by hand".to_owned(),
            |site| format!("{}:{}", site.file, site.line),
        );
        let on_error = match declaration.settings.on_error {
            OnError::Stop => "stop",
            OnError::Park => "park",
            OnError::Skip => "skip",
        };
        table.add_row([
            declaration.name.to_string(),
            declaration.version.to_string(),
            declaration.group.unwrap_or("-").to_owned(),
            scope(declaration.scope.iter().map(|kind| &**kind)),
            on_error.to_owned(),
            site,
        ]);
    }
    text(&table)
}

fn scope<'a>(kinds: impl Iterator<Item = &'a str>) -> String {
    let kinds: Vec<&str> = kinds.collect();
    if kinds.is_empty() {
        "every event".to_owned()
    } else {
        kinds.join(", ")
    }
}

/// How every consumer stands, and how fast it goes where that is known.
pub(super) fn status(console: &Console, status: &Status) -> String {
    let has_rates = status.consumers.iter().any(|one| one.rate.is_some());
    let mut header = vec!["CONSUMER", "STATE", "POSITION", "LAG", "BEHIND", "PARKED"];
    header.extend(has_rates.then_some("RATE"));
    let mut table = table(console, &header, &[2, 3, 4, 5, 6]);
    for one in &status.consumers {
        let position = one.position.map_or_else(|| "-".to_owned(), number);
        let mut row = vec![
            Cell::new(name(status, one)),
            Cell::new(&one.state).fg(colour(&one.state)),
            Cell::new(position),
            Cell::new(lag(one.lag)),
            Cell::new(one.lag.time.map_or_else(|| "-".to_owned(), duration)),
            Cell::new(if one.parked == 0 {
                "-".to_owned()
            } else {
                number(one.parked)
            }),
        ];
        row.extend(has_rates.then(|| Cell::new(rate(one.rate))));
        table.add_row(row);
    }
    let mut text = if status.consumers.is_empty() {
        "no consumer has a checkpoint, and this program has none".to_owned()
    } else {
        text(&table)
    };
    for line in status.consumers.iter().filter_map(failing) {
        text.push_str("\n\n");
        text.push_str(&line);
    }
    text.push_str("\n\n");
    text.push_str(&frontier(&status.frontier));
    text
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", rounded(rate)))
}

/// With the version where it is not the only one, and which of them serves.
fn name(status: &Status, one: &ConsumerStatus) -> String {
    let same = |other: &&ConsumerStatus| other.name == one.name;
    let has_others = status.consumers.iter().filter(same).count() > 1;
    match (has_others, one.is_active) {
        (true, true) => format!("{} v{} (active)", one.name, one.version),
        (true, false) => format!("{} v{}", one.name, one.version),
        (false, _) if one.version != 1 => format!("{} v{}", one.name, one.version),
        (false, _) => one.name.to_string(),
    }
}

fn failing(one: &ConsumerStatus) -> Option<String> {
    if one.state == ConsumerState::ScopeChanged {
        return Some(format!(
            "{}: its checkpoint was reached with the scope [{}], and the code has another; rebuild it, or accept the new scope (`accept-scope`)",
            one.name,
            one.scope.join(", ")
        ));
    }
    let failing = one.failing.as_ref()?;
    let event = failing.position.map_or_else(String::new, |position| {
        format!(" at event {}", number(position))
    });
    let again = failing.retry_in.map_or_else(String::new, |wait| {
        format!(", tried again in {}", duration(wait))
    });
    Some(format!(
        "{} {}{event} (failed {}{again}): {}",
        one.name,
        one.state,
        times(failing.attempts),
        failing.error
    ))
}

fn colour(state: &ConsumerState) -> Color {
    match state {
        ConsumerState::Running => Color::Green,
        ConsumerState::Stopped | ConsumerState::ScopeChanged => Color::Red,
        ConsumerState::Retrying | ConsumerState::Paused | ConsumerState::Detached => Color::Yellow,
        ConsumerState::Rebuilding | ConsumerState::New | ConsumerState::OtherVersion => Color::Cyan,
    }
}

fn lag(lag: Lag) -> String {
    let more = if lag.is_more { "+" } else { "" };
    format!("{}{more}", number(lag.events))
}

/// How far the log is settled, in a line or a few.
pub(super) fn frontier(frontier: &FrontierStatus) -> String {
    if let Some(problem) = &frontier.problem {
        return format!("frontier unknown: {problem}");
    }
    let (settled, head) = (number(frontier.settled), number(frontier.head));
    if frontier.settled >= frontier.head {
        return format!("the log is settled up to its head, {head}");
    }
    let mut lines = vec![format!(
        "the log is settled up to {settled}, its head is {head}"
    )];
    let waits = |blocker| format!("frontier waits at {settled} for {blocker}");
    lines.extend(frontier.blockers.iter().map(waits));
    lines.join("\n")
}

/// The parked events of a consumer.
pub(super) fn parked(console: &Console, events: &[ParkedEvent]) -> String {
    if events.is_empty() {
        return "no event is parked".to_owned();
    }
    let header = ["POSITION", "AGGREGATE", "FAILED", "PARKED", "WHY"];
    let mut table = table(console, &header, &[0, 2, 3]);
    for one in events {
        let why = match &one.error {
            Some(error) if one.has_failed => error.clone(),
            _ => "waits behind an earlier event".to_owned(),
        };
        let failed = if one.has_failed {
            number(one.attempts)
        } else {
            "-".to_owned()
        };
        table.add_row([
            one.position.to_string(),
            format!("{} {}", one.aggregate_type, one.aggregate_id),
            failed,
            duration(one.parked_for),
            why,
        ]);
    }
    text(&table)
}

/// A parked event with its payload, as far as it is text.
pub(super) fn parked_event(parked: &ParkedEvent, event: Option<&PersistedEvent>) -> String {
    let mut lines = vec![
        format!("position    {}", parked.position),
        format!(
            "aggregate   {} {}",
            parked.aggregate_type, parked.aggregate_id
        ),
        format!("parked for  {}", duration(parked.parked_for)),
        if parked.has_failed {
            format!("failed      {}", times(parked.attempts))
        } else {
            "waits behind an earlier event of its aggregate".to_owned()
        },
    ];
    lines.extend(
        parked
            .error
            .as_ref()
            .map(|error| format!("error       {error}")),
    );
    match event {
        None => lines.push("the event is not in the log any more".to_owned()),
        Some(event) => {
            lines.push(format!(
                "event       {} version {}",
                event.event_type, event.event_version
            ));
            lines.push(format!("event id    {}", event.event_id));
            lines.push(format!("created at  {}", event.created_at.to_rfc3339()));
            lines.push(format!("payload     {}", payload(event)));
        }
    }
    lines.join("\n")
}

fn payload(event: &PersistedEvent) -> String {
    std::str::from_utf8(&event.payload).map_or_else(
        |_| format!("{} bytes that are not text", event.payload.len()),
        str::to_owned,
    )
}

fn times(count: u32) -> String {
    match count {
        1 => "1 time".to_owned(),
        _ => format!("{} times", number(count)),
    }
}

/// A number with its thousands apart.
pub(super) fn number(number: impl TryInto<i128>) -> String {
    let number = number.try_into().unwrap_or_default();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate as a whole number.
pub(super) fn rounded(rate: f64) -> String {
    #[allow(clippy::cast_possible_truncation)] // the cast saturates
    let whole = rate.round() as i64;
    number(whole)
}

/// A time in its two largest units.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => format!("{} ms", time.as_millis()),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, number};

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (given, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (-1_234_567, "-1,234,567"),
        ] {
            assert_eq!(number(given), expected);
        }
    }

    #[test]
    fn times_are_given_in_their_two_largest_units() {
        for (millis, expected) in [
            (20, "20 ms"),
            (59_900, "59 s"),
            (61_000, "1 min 1 s"),
            (3_661_000, "1 h 1 min"),
            (90_061_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
    }
}
