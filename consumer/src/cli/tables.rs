//! The human-readable output of the commands.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table,
};
use serde_json::json;
use sqlx::Database;

use super::console::Console;
use crate::admin::problems::{problems, ways_out_of_parking};
use crate::admin::text::{count, duration, number, one_line, rate, visible};
use crate::admin::{
    ConsumerId, ConsumerStatus, Explanation, FrontierStatus, Lag, ParkedEvent, Status,
    UnknownEvents, by_aggregate, processes_of,
};
use crate::backend::{LogRow, Schema, readable_event, readable_payload, readable_time};
use crate::contract::OnError;
use crate::registry::{Declaration, Registered};
use crate::worker::Tone;

/// A table without borders.
struct Layout<'a> {
    console: &'a Console,
    header: &'a [&'a str],
    /// The columns that are aligned to the right.
    right: &'a [usize],
    /// The column that has a line of its own where there is no room beside it.
    title: usize,
    /// The number of columns, at the end, that may have several lines. The others never do, since names, ids and
    /// numbers are copied from them.
    wrapped: usize,
}

/// Rows without the titles that are too long for their column.
struct Titled {
    rows: Vec<Vec<Cell>>,
    titles: Vec<Option<String>>,
}

impl Titled {
    /// Whether so few titles are long that most rows have one line.
    fn are_few(&self) -> bool {
        self.titles.iter().flatten().count() * 2 < self.titles.len()
    }
}

impl Layout<'_> {
    /// The table. Where the console is too narrow for it, what may have several lines is below its row, and a
    /// title that is too long is above it.
    fn text(&self, rows: &[Vec<Cell>]) -> String {
        /// A text that is wrapped in fewer columns has too many lines.
        const NARROWEST: usize = 28;
        let all: Vec<usize> = (0..self.header.len()).collect();
        let (fixed, wrapped) = all.split_at(self.header.len() - self.wrapped);
        if self.fits(rows, &all, 0) {
            return text(&self.table(rows, &all, true));
        }
        let titled = self.titled(rows, fixed, NARROWEST);
        if !wrapped.is_empty() && titled.are_few() && self.fits(&titled.rows, fixed, NARROWEST) {
            return self.beside(titled, fixed, &all);
        }
        self.below(self.titled(rows, fixed, 0), fixed, rows)
    }

    /// The rows with what may have several lines beside the other columns.
    fn beside(&self, shown: Titled, fixed: &[usize], all: &[usize]) -> String {
        let table = text(&self.table(&shown.rows, all, true));
        let plain = self.console.without_colour();
        let plain = Layout {
            console: &plain,
            ..*self
        }
        .table(&shown.rows, all, true);
        let width = self.widest(&shown.rows, fixed);
        // Below its first line, a row has nothing in the columns that are fixed.
        let starts = |line: &String| line.chars().take(width).any(|char| char != ' ');
        let starts: Vec<bool> = plain.lines().map(|line| starts(&line)).collect();
        let mut titles = shown.titles.into_iter();
        let mut lines = Vec::new();
        for (index, (line, starts)) in table.lines().zip(starts).enumerate() {
            if starts && index > 0 {
                lines.extend(titles.next().flatten());
            }
            lines.push(line.to_owned());
        }
        lines.join("\n")
    }

    /// The rows with what may have several lines below the other columns.
    fn below(&self, titled: Titled, fixed: &[usize], rows: &[Vec<Cell>]) -> String {
        let table = text(&self.table(&titled.rows, fixed, false));
        let mut lines = table.lines().map(str::to_owned);
        let mut all: Vec<String> = lines.next().into_iter().collect();
        for ((line, title), row) in lines.zip(titled.titles).zip(rows) {
            all.extend(title);
            all.push(line);
            all.extend(self.wrapped_below(row));
        }
        all.join("\n")
    }

    /// Takes out the titles that leave no room for the other columns and `more` characters.
    fn titled(&self, rows: &[Vec<Cell>], fixed: &[usize], more: usize) -> Titled {
        let mut others = fixed.to_vec();
        others.retain(|&column| column != self.title);
        let long = |row: &mut Vec<Cell>| {
            let title = row.get_mut(self.title)?;
            let text = title.content();
            let is_long = !self.fits(rows, &others, text.chars().count() + 2 + more);
            is_long.then(|| {
                *title = cell("");
                text
            })
        };
        let mut untitled = rows.to_vec();
        Titled {
            titles: untitled.iter_mut().map(long).collect(),
            rows: untitled,
        }
    }

    /// The cells that may have several lines, on lines of their own.
    fn wrapped_below<'r>(&'r self, row: &'r [Cell]) -> impl Iterator<Item = String> + 'r {
        let cells = row.iter().zip(self.header);
        let wrapped = cells.skip(self.header.len() - self.wrapped);
        wrapped.map(|(cell, header)| match self.wrapped {
            1 => format!("    {}", cell.content()),
            _ => format!("    {}: {}", header.to_lowercase(), cell.content()),
        })
    }

    fn table(&self, rows: &[Vec<Cell>], columns: &[usize], wraps: bool) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        if let Some(width) = self.console.width.filter(|_| wraps) {
            table.set_width(width);
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        if self.console.has_colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let header = columns.iter().filter_map(|&column| self.header.get(column));
        let bold = |text: &&str| Cell::new(text).add_attribute(Attribute::Bold);
        table.set_header(header.map(bold).collect::<Vec<_>>());
        for row in rows {
            let cells = columns
                .iter()
                .filter_map(|&column| row.get(column).cloned());
            table.add_row(cells.collect::<Vec<_>>());
        }
        for (column, index) in table.column_iter_mut().zip(columns) {
            column.set_padding((0, 2));
            if self.right.contains(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if *index < self.header.len() - self.wrapped {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table
    }

    /// Whether the console has room for some columns side by side, and for `more` characters.
    fn fits(&self, rows: &[Vec<Cell>], columns: &[usize], more: usize) -> bool {
        let needed = self.widest(rows, columns) + more;
        self.console
            .width
            .is_none_or(|width| needed <= usize::from(width))
    }

    /// The width of some columns beside each other.
    fn widest(&self, rows: &[Vec<Cell>], columns: &[usize]) -> usize {
        let plain = self.console.without_colour();
        let plain = Layout {
            console: &plain,
            ..*self
        };
        let lines = plain.table(rows, columns, false);
        lines
            .lines()
            .map(|line| line.trim_end().chars().count())
            .max()
            .unwrap_or(0)
    }
}

/// A cell of a text of any origin.
fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(one_line(text.as_ref()))
}

/// The lines of a table, without trailing blanks.
fn text(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| without_blanks(&line)).collect();
    lines.join("\n")
}

/// A line without trailing blanks, of which a style may be the end.
fn without_blanks(line: &str) -> String {
    const RESET: &str = "\x1b[0m";
    match line.trim_end().strip_suffix(RESET) {
        Some(styled) => format!("{}{RESET}", styled.trim_end()),
        None => line.trim_end().to_owned(),
    }
}

/// The consumers of the program, as declared.
pub(super) fn list<DB: Database>(console: &Console, consumers: &[Registered<DB>]) -> String {
    if consumers.is_empty() {
        return "this program has no consumers".to_owned();
    }
    let layout = Layout {
        console,
        header: &["CONSUMER", "V", "GROUP", "ON ERROR", "SCOPE", "DECLARED AT"],
        right: &[1],
        title: 0,
        wrapped: 2,
    };
    let rows = consumers.iter().map(|Registered { declaration, .. }| {
        vec![
            cell(&declaration.name),
            cell(declaration.version.to_string()),
            cell(declaration.group.unwrap_or("-")),
            cell(on_error(declaration)),
            cell(scope(declaration.scope.iter().map(|kind| &**kind))),
            cell(declared_at(declaration).unwrap_or_else(|| "by hand".to_owned())),
        ]
    });
    layout.text(&rows.collect::<Vec<_>>())
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
        status_table(console, status)
    };
    // One of several, so people have to know which.
    if status.log != Schema::default().log_name() {
        text.insert_str(0, &format!("log {}\n\n", status.log));
    }
    let batches = status.consumers.iter().filter_map(long_batch);
    for line in status.consumers.iter().flat_map(problems).chain(batches) {
        text.push_str("\n\n");
        text.push_str(&line);
    }
    text.push_str("\n\n");
    text.push_str(&frontier(&status.frontier));
    text
}

/// A batch that takes long, which would not show otherwise before it ends.
fn long_batch(one: &ConsumerStatus) -> Option<String> {
    const LONG: Duration = Duration::from_secs(10);
    let (_, longest) = one.batches()?;
    let longest = longest.filter(|longest| *longest >= LONG)?;
    let id = &one.id;
    Some(format!(
        "{id}: a batch has been in progress for {}",
        duration(longest)
    ))
}

fn status_table(console: &Console, status: &Status) -> String {
    let has_rates = status.consumers.iter().any(|one| one.rate.is_some());
    let mut header = vec!["CONSUMER", "STATE", "POSITION", "LAG", "BEHIND", "PARKED"];
    header.extend(has_rates.then_some("RATE"));
    let layout = Layout {
        console,
        header: &header,
        right: &[2, 3, 4, 5, 6],
        title: 0,
        wrapped: 0,
    };
    let rows = status.consumers.iter().map(|one| {
        let parked = Some(one.parked).filter(|&parked| parked > 0);
        let mut row = vec![
            cell(name(status, one)),
            cell(one.state.words()).fg(colour(one)),
            cell(or_dash(one.position, number)),
            cell(lag(one.lag)),
            cell(or_dash(one.lag.time, duration)),
            cell(or_dash(parked, number)),
        ];
        row.extend(has_rates.then(|| cell(or_dash(one.rate, rate))));
        row
    });
    layout.text(&rows.collect::<Vec<_>>())
}

fn or_dash<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), text)
}

/// The name, with the version if there are several or it is not the first.
fn name(status: &Status, one: &ConsumerStatus) -> String {
    let same = |other: &&ConsumerStatus| other.id.name == one.id.name;
    let has_others = status.consumers.iter().filter(same).count() > 1;
    match (has_others, one.is_active) {
        (true, true) => format!("{} v{} active", one.id.name, one.id.version),
        (true, false) => format!("{} v{}", one.id.name, one.id.version),
        (false, _) => one.id.to_string(),
    }
}

/// The processes that handled events, the most recent first.
pub(super) fn processes(console: &Console, status: &Status) -> String {
    let batches = batches(status);
    let processes = processes_of(&status.consumers);
    if processes.is_empty() {
        return format!("no process has handled an event yet{batches}");
    }
    let layout = Layout {
        console,
        header: &["PROCESS", "RELEASE", "LAST BATCH", "CONSUMERS"],
        right: &[2],
        title: 0,
        wrapped: 1,
    };
    let rows = processes.into_iter().map(|(worker, consumers)| {
        let names: Vec<String> = consumers.iter().map(|one| name(status, one)).collect();
        vec![
            cell(format!("{} on {}", worker.pid, worker.host)),
            cell(&worker.release),
            cell(format!("{} ago", duration(worker.seen_ago))),
            cell(names.join(", ")),
        ]
    });
    layout.text(&rows.collect::<Vec<_>>()) + &batches
}

/// The batches that are in progress, whose processes are not known yet.
fn batches(status: &Status) -> String {
    let of_one = |one: &ConsumerStatus| {
        let (batches, longest) = one.batches()?;
        let time = longest.map_or_else(String::new, |time| format!(", for {}", duration(time)));
        let name = name(status, one);
        Some(format!("{name} ({}{time})", count(batches, "segment")))
    };
    let all: Vec<String> = status.consumers.iter().filter_map(of_one).collect();
    if all.is_empty() {
        return String::new();
    }
    format!("\n\nin a batch now: {}", all.join(", "))
}

/// The events of the log that the program does not know.
pub(super) fn unknown(console: &Console, events: &[UnknownEvents]) -> String {
    if events.is_empty() {
        return "this program knows every event in the scope of its consumers".to_owned();
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
    let layout = Layout {
        console,
        header: &header,
        right: &[2, 4, 5, 6],
        title: 0,
        wrapped: 0,
    };
    let rows = events.iter().map(|one| {
        vec![
            cell(one.consumer.to_string()),
            cell(&one.event_type),
            cell(one.event_version.to_string()),
            cell(&one.aggregate_type),
            cell(number(one.events)),
            cell(one.first.to_string()),
            cell(one.last.to_string()),
        ]
    });
    let table = layout.text(&rows.collect::<Vec<_>>());
    format!(
        "{table}\n\ndeploy a release that knows these events, or name their types in the consumer's `ignore`"
    )
}

fn colour(one: &ConsumerStatus) -> Color {
    match one.state.tone() {
        Tone::Good => Color::Green,
        Tone::Neutral => Color::Cyan,
        Tone::Doubtful => Color::Yellow,
        Tone::Bad => Color::Red,
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

/// The fate of an event in a consumer, and its content.
pub(super) fn explanation(explanation: &Explanation, row: Option<&LogRow>) -> String {
    let mut lines = vec![format!("consumer    {}", explanation.consumer)];
    let Some(event) = &explanation.event else {
        lines.push(format!("event       {}", explanation.outcome));
        return lines.join("\n");
    };
    let outcome = explanation.outcome_text();
    lines.extend([
        event_line(&event.event_type, event.event_version),
        aggregate_line(&event.aggregate_type, &event.aggregate_id),
        format!("outcome     {}", one_line(&outcome)),
    ]);
    lines.extend(
        explanation
            .ways_past()
            .map(|ways| format!("next        {ways}")),
    );
    let checkpoint = explanation.checkpoint.map(number);
    lines.extend(checkpoint.map(|checkpoint| format!("checkpoint  {checkpoint}")));
    lines.push(if explanation.is_replay {
        "is replay   yes".to_owned()
    } else {
        "is replay   no".to_owned()
    });
    if explanation.is_without_handler {
        lines.push("handler     none takes it".to_owned());
    }
    lines.extend(explanation.handlers.iter().map(|handler| {
        format!(
            "handler     {} at {}:{}",
            handler.method, handler.file, handler.line
        )
    }));
    lines.extend(row.into_iter().flat_map(content));
    lines.join("\n")
}

/// The parked events of a consumer.
pub(super) fn parked(console: &Console, events: &[ParkedEvent]) -> String {
    if events.is_empty() {
        return "no event is parked".to_owned();
    }
    let layout = Layout {
        console,
        header: &["POSITION", "AGGREGATE", "FAILED", "PARKED", "WHY"],
        right: &[0, 2, 3],
        title: 1,
        wrapped: 1,
    };
    let rows = by_aggregate(events);
    layout.text(
        &rows
            .iter()
            .flat_map(|events| rows_of(events))
            .collect::<Vec<_>>(),
    )
}

/// The rows of an aggregate: one for each event that failed, and one for all those that wait behind it.
fn rows_of(events: &[&ParkedEvent]) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    let mut failed: Option<&ParkedEvent> = None;
    for run in events.chunk_by(|_, next| !next.has_failed) {
        let (shown, waiting) = match run {
            [first, others @ ..] if first.has_failed => {
                failed = Some(first);
                (Some(first), others)
            }
            others => (None, others),
        };
        rows.extend(shown.map(|one| parked_row(one, one.error.clone().unwrap_or_default())));
        if let [first, others @ ..] = waiting {
            rows.push(parked_row(first, waits(failed, others.len())));
        }
    }
    rows
}

fn parked_row(one: &ParkedEvent, why: String) -> Vec<Cell> {
    let failed = if one.has_failed {
        number(one.attempts)
    } else {
        "-".to_owned()
    };
    vec![
        cell(one.position.to_string()),
        cell(format!("{} {}", one.aggregate_type, one.aggregate_id)),
        cell(failed),
        cell(duration(one.parked_for)),
        cell(why),
    ]
}

/// What an event waits for, and how many later ones wait with it.
fn waits(failed: Option<&ParkedEvent>, later: usize) -> String {
    let waits = match failed {
        Some(failed) => format!("waits behind event {}", failed.position),
        // Its predecessor was skipped.
        None => "waits for a retry".to_owned(),
    };
    match later {
        0 => waits,
        _ => format!("{waits}, with {}", count(later as u64, "later event")),
    }
}

/// A consumer's parked event with its payload.
pub(super) fn parked_event(
    consumer: &ConsumerId,
    parked: &ParkedEvent,
    row: Option<&LogRow>,
) -> String {
    let mut lines = vec![
        format!("position    {}", parked.position),
        aggregate_line(&parked.aggregate_type, &parked.aggregate_id),
        format!("parked for  {}", duration(parked.parked_for)),
        if parked.has_failed {
            format!("failed      {}", count(parked.attempts.into(), "time"))
        } else {
            "failed      never: it was parked behind an earlier event of its aggregate".to_owned()
        },
    ];
    let error = parked.error.iter();
    lines.extend(error.map(|error| format!("error       {}", one_line(error))));
    let next = ways_out_of_parking(consumer, parked.position);
    lines.push(format!("next        {next}"));
    match row {
        None => lines.push("event       no longer in the log".to_owned()),
        Some(row) => {
            let event = readable_event(row);
            lines.push(event_line(&event.event_type, event.event_version));
            lines.extend(content(row));
        }
    }
    lines.join("\n")
}

fn event_line(event_type: &str, version: i32) -> String {
    format!("event       {} version {version}", one_line(event_type))
}

fn aggregate_line(aggregate_type: &str, id: &str) -> String {
    format!("aggregate   {} {}", one_line(aggregate_type), one_line(id))
}

/// What can be decoded of an event.
fn content(row: &LogRow) -> Vec<String> {
    let event = readable_event(row);
    let unreadable = row.as_ref().err();
    let unknown = || "cannot be decoded".to_owned();
    let id = Some(event.event_id).filter(|id| row.is_ok() || !id.is_nil());
    let time = readable_time(row).map(|time| time.to_rfc3339());
    let error = unreadable.map(|row| format!("unreadable  {}", one_line(&row.error.to_string())));
    let rest = [
        format!(
            "event id    {}",
            id.map_or_else(unknown, |id| id.to_string())
        ),
        format!("created at  {}", time.unwrap_or_else(unknown)),
        format!(
            "payload     {}",
            readable_payload(row).map_or_else(unknown, |bytes| payload(bytes))
        ),
    ];
    error.into_iter().chain(rest).collect()
}

fn payload(payload: &[u8]) -> String {
    /// More would only scroll away what is before it.
    const MOST_SHOWN: usize = 16 * 1024;
    let size = count(payload.len() as u64, "byte");
    let Ok(text) = std::str::from_utf8(payload) else {
        return format!("{size} that are not text");
    };
    match text.get(..text.floor_char_boundary(MOST_SHOWN)) {
        Some(head) if head.len() < text.len() => {
            format!("{} … (cut, {size} in all)", visible(head))
        }
        _ => visible(text.trim_end()),
    }
}
