//! The events that handlers take, and the checks of them at compile time.

use super::const_text::Text;
use crate::contract::Handled;
use crate::contract::const_text::same;
use crate::contract::read_model::Table;
use crate::contract::typed::EventShape;

/// One handler of a declared consumer.
#[derive(Clone, Copy, Debug)]
pub struct HandlerShape {
    /// The method.
    pub method: &'static str,
    /// The file of its declaration.
    pub file: &'static str,
    /// The line of its declaration, from 1.
    pub line: u32,
    /// The events that it takes.
    pub handled: Handled,
    /// Which versions of an event type it reads, if it is typed.
    pub reads: Option<fn(&str, i32) -> bool>,
    /// The rows that it changes.
    pub rows: HandlerRows,
}

impl HandlerShape {
    /// The events that it takes, in words.
    pub(crate) fn events(&self) -> Vec<&'static str> {
        match self.handled {
            Handled::Every => vec!["every event"],
            Handled::Rest => vec!["every other"],
            Handled::Named(events) | Handled::Typed { events, .. } => events.to_vec(),
        }
    }

    /// Whether it takes an event, unless it takes those that no other handler does.
    fn takes(&self, aggregate_type: &str, event_type: &str) -> bool {
        match self.handled {
            Handled::Every => true,
            Handled::Typed { aggregate, events } => {
                aggregate == aggregate_type && events.contains(&event_type)
            }
            Handled::Named(events) => events.contains(&event_type),
            Handled::Rest => false,
        }
    }
}

/// The handlers that take an event in scope which is not ignored.
pub(super) fn takers<'a>(
    handlers: &'a [HandlerShape],
    aggregate_type: &str,
    event_type: &str,
) -> Vec<&'a HandlerShape> {
    let all = || handlers.iter();
    let takers: Vec<_> = all()
        .filter(|handler| handler.takes(aggregate_type, event_type))
        .collect();
    if takers.is_empty() {
        return all()
            .filter(|handler| handler.handled == Handled::Rest)
            .collect();
    }
    takers
}

/// The rows of a read model that a handler changes.
#[derive(Clone, Copy, Debug)]
pub enum HandlerRows {
    /// It is not a fold: with SQL it may change any.
    Unsaid,
    /// None: a fold that neither takes nor returns a row.
    None,
    /// The one with the aggregate id as its key, by default.
    OfAggregate,
    /// Those that its `key` names. Several such handlers may take one event.
    Named,
}

/// Checks that are evaluated as constants, so that a failure is a compile error.
#[expect(
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a panic in a constant is a compile error"
)]
pub mod check {
    use super::{EventShape, Handled, HandlerRows, HandlerShape, Table, Text};

    /// Requires the aggregate of a typed handler's event to be in the consumer's scope.
    #[track_caller]
    pub const fn is_in_scope(handlers: &[HandlerShape], method: &str, line: u32, scope: &[&str]) {
        let Some(handler) = super::handler_at(handlers, method, line) else {
            return;
        };
        let Handled::Typed { aggregate, events } = handler.handled else {
            return;
        };
        // An event that did not compile has no aggregate.
        if scope.is_empty() || aggregate.is_empty() || super::contains(scope, aggregate) {
            return;
        }
        let text = Text::new()
            .push("`")
            .push(handler.method)
            .push("` is never called: ")
            .push_names(events)
            .push(if events.len() > 1 {
                " belong to the aggregate `"
            } else {
                " belongs to the aggregate `"
            })
            .push(aggregate)
            .push("`, but the scope of this consumer is ")
            .push_names(scope)
            .push(": add `")
            .push(aggregate)
            .push("` to `aggregates`, or remove the handler");
        panic!("{}", text.as_str());
    }

    /// Requires one handler for each event.
    #[track_caller]
    pub const fn is_the_only_one(handlers: &[HandlerShape], method: &str, line: u32) {
        let Some(handler) = super::handler_at(handlers, method, line) else {
            return;
        };
        let mut rest = handlers;
        while let [other, later @ ..] = rest {
            rest = later;
            if super::is_at(other, method, line) {
                return;
            }
            let Some(event) = super::common_event(&handler.handled, &other.handled) else {
                continue;
            };
            let advice = match (handler.rows, other.rows) {
                (HandlerRows::Named, HandlerRows::Named) => continue,
                (HandlerRows::Unsaid, HandlerRows::Unsaid) => {
                    "`: remove one of the two, or give the event types different names"
                }
                (HandlerRows::Unsaid, _) | (_, HandlerRows::Unsaid) => {
                    "`: make one `async` handler of the two, or remove one"
                }
                (HandlerRows::None, _) | (_, HandlerRows::None) => "`: remove one of the two",
                _ => {
                    "`: name the rows of each, as in `#[on(key = event.payload.user_id)]`, or remove one of the two"
                }
            };
            let text = Text::new()
                .push("`")
                .push(event)
                .push("` has two handlers, `")
                .push(other.method)
                .push("` (")
                .push(other.file)
                .push(":")
                .push_number(other.line)
                .push(") and `")
                .push(handler.method)
                .push(advice);
            panic!("{}", text.as_str());
        }
    }

    /// Requires the event name of a handler to be in scope, if types list all events of the scope.
    #[track_caller]
    pub const fn is_a_known_event(name: &str, known: &[&[&str]]) {
        let mut lists = known;
        let mut near = None;
        while let [list, later @ ..] = lists {
            lists = later;
            // An aggregate that did not compile has no events.
            if list.is_empty() || super::contains(list, name) {
                return;
            }
            if near.is_none() {
                near = super::nearest(list, name);
            }
        }
        let text = Text::new()
            .push("there is no event `")
            .push(name)
            .push("` in the scope of this consumer: ");
        let text = match near {
            Some(meant) => text.push("did you mean `").push(meant).push("`?"),
            None => {
                let mut text = text.push("the events are ");
                let mut lists = known;
                while let [list, later @ ..] = lists {
                    text = text.push_names(list);
                    if !later.is_empty() {
                        text = text.push(", ");
                    }
                    lists = later;
                }
                text
            }
        };
        panic!("{}", text.as_str());
    }

    /// Requires a handler for every event of an `Aggregate` type in the scope.
    #[track_caller]
    pub const fn every_event_has_a_handler(
        aggregate: &str,
        events: &[&str],
        handlers: &[HandlerShape],
    ) {
        if super::takes_all(aggregate, events, handlers) {
            return;
        }
        let mut missing = Text::new();
        let mut count = 0;
        let mut rest = events;
        while let [event, later @ ..] = rest {
            rest = later;
            if super::has_handler(aggregate, event, handlers) {
                continue;
            }
            if count > 0 {
                missing = missing.push(", ");
            }
            missing = missing.push("`").push(event).push("`");
            count += 1;
        }
        if count == 0 {
            return;
        }
        let text = Text::new()
            .push("no handler takes ")
            .push(missing.as_str())
            .push(" of the aggregate `")
            .push(aggregate)
            .push("`: add an `#[on]` handler for ")
            .push(if count == 1 { "it" } else { "each" })
            .push(", or `#[on(other)]` for the rest");
        panic!("{}", text.as_str());
    }

    /// Requires an ignored event to have no handler of its own.
    #[track_caller]
    pub const fn is_ignored(name: &str, handlers: &[HandlerShape]) {
        let mut rest = handlers;
        while let [handler, later @ ..] = rest {
            rest = later;
            let events = match handler.handled {
                Handled::Typed { events, .. } | Handled::Named(events) => events,
                Handled::Every | Handled::Rest => continue,
            };
            if super::contains(events, name) {
                let text = Text::new()
                    .push("`")
                    .push(name)
                    .push("` is ignored, but `")
                    .push(handler.method)
                    .push("` (")
                    .push(handler.file)
                    .push(":")
                    .push_number(handler.line)
                    .push(") handles it: remove one of the two");
                panic!("{}", text.as_str());
            }
        }
    }

    /// Requires an event in a variant to be one event, of the enum's aggregate, which names itself.
    #[track_caller]
    pub const fn is_an_event_of(
        variant: &str,
        aggregate: &str,
        event: Option<EventShape>,
        is_described: bool,
    ) {
        let Some(event) = event else {
            return;
        };
        let text = Text::new()
            .push("the variant `")
            .push(variant)
            .push("` holds ");
        let text = if let Some(wrapper) = event.wrapper {
            text.push("an event inside `")
                .push(wrapper)
                .push("`, which would be stored as another event: remove the `")
                .push(wrapper)
                .push("`, or write `Box`")
        } else if is_described {
            text.push(
                "an event with its own name and version: remove `#[event(…)]` from the variant",
            )
        } else if event.events.len() > 1 {
            text.push("several events: list them as variants of this enum")
        } else if !super::same(event.aggregate, aggregate) && !event.aggregate.is_empty() {
            text.push("an event of the aggregate `")
                .push(event.aggregate)
                .push("`, but this enum is the aggregate `")
                .push(aggregate)
                .push("`: move the variant to the enum of `")
                .push(event.aggregate)
                .push("`, or correct one of the two `#[event(aggregate = \"…\")]`")
        } else {
            return;
        };
        panic!("{}", text.as_str());
    }

    /// Requires the event types of an enum to differ.
    #[track_caller]
    pub const fn is_named_once(events: &[&str], index: u32) {
        let (before, rest) = events.split_at(index as usize);
        let [name, ..] = rest else {
            return;
        };
        if super::contains(before, name) {
            let text = Text::new()
                .push("two variants have the event type `")
                .push(name)
                .push("`: give this one another, as in `#[event(name = \"…\")]`");
            panic!("{}", text.as_str());
        }
    }

    /// Requires the name of the version's table to be as short as Postgres keeps it.
    #[track_caller]
    pub const fn table_fits(table: Option<&Table>, version: u32) {
        let Some(table) = table else {
            return;
        };
        let length = super::table_name_length(table.name, version);
        if length > 63 {
            let text = Text::new()
                .push("the table of version ")
                .push_number(version)
                .push(" would have a name of ")
                .push_number(length)
                .push(" bytes, and Postgres cuts names after 63: shorten `")
                .push(table.name)
                .push("`");
            panic!("{}", text.as_str());
        }
    }

    /// Requires an aggregate type to be listed once, as a string or by a type.
    #[track_caller]
    pub const fn is_listed_once(scope: &[&str], index: usize) {
        let (before, rest) = scope.split_at(index);
        let [aggregate, ..] = rest else {
            return;
        };
        // An event that did not compile has no aggregate.
        if !aggregate.is_empty() && super::contains(before, aggregate) {
            let text = Text::new()
                .push("the aggregate type `")
                .push(aggregate)
                .push("` is listed twice: remove one of the two");
            panic!("{}", text.as_str());
        }
    }
}

/// The length of `users_v2`, without a schema.
const fn table_name_length(name: &str, version: u32) -> u32 {
    // `_v`
    let mut length = 2;
    let mut bytes = name.as_bytes();
    while let [byte, rest @ ..] = bytes {
        bytes = rest;
        length = if *byte == b'.' { 2 } else { length + 1 };
    }
    length + version.ilog10() + 1
}

const fn handler_at<'a>(
    handlers: &'a [HandlerShape],
    method: &str,
    line: u32,
) -> Option<&'a HandlerShape> {
    let mut rest = handlers;
    while let [handler, later @ ..] = rest {
        if is_at(handler, method, line) {
            return Some(handler);
        }
        rest = later;
    }
    None
}

const fn is_at(handler: &HandlerShape, method: &str, line: u32) -> bool {
    handler.line == line && same(handler.method, method)
}

const fn contains(list: &[&str], wanted: &str) -> bool {
    let mut rest = list;
    while let [first, later @ ..] = rest {
        if same(first, wanted) {
            return true;
        }
        rest = later;
    }
    false
}

/// An event that both take.
const fn common_event(one: &Handled, other: &Handled) -> Option<&'static str> {
    match (one, other) {
        (
            Handled::Typed { aggregate, events },
            Handled::Typed {
                aggregate: other_aggregate,
                events: others,
            },
        ) if same(aggregate, other_aggregate) => common_name(events, others),
        (Handled::Typed { events, .. }, Handled::Named(names)) => common_name(events, names),
        (Handled::Named(names), Handled::Typed { events, .. }) => common_name(names, events),
        (Handled::Named(names), Handled::Named(others)) => common_name(names, others),
        _ => None,
    }
}

const fn common_name(one: &'static [&'static str], other: &[&'static str]) -> Option<&'static str> {
    let mut rest = one;
    while let [first, later @ ..] = rest {
        if contains(other, first) {
            return Some(first);
        }
        rest = later;
    }
    None
}

/// Whether one handler takes exactly these events. It spares the check of a large enum that one
/// handler takes as a whole, whose time would be quadratic.
const fn takes_all(aggregate: &str, events: &[&str], handlers: &[HandlerShape]) -> bool {
    let mut rest = handlers;
    while let [handler, later @ ..] = rest {
        if let Handled::Typed {
            aggregate: own,
            events: taken,
        } = handler.handled
            && same(own, aggregate)
            && are_same(taken, events)
        {
            return true;
        }
        rest = later;
    }
    false
}

const fn are_same(one: &[&str], other: &[&str]) -> bool {
    let (mut one, mut other) = (one, other);
    while let ([a, more @ ..], [b, others @ ..]) = (one, other) {
        if !same(a, b) {
            return false;
        }
        (one, other) = (more, others);
    }
    one.is_empty() && other.is_empty()
}

const fn has_handler(aggregate: &str, event: &str, handlers: &[HandlerShape]) -> bool {
    let mut rest = handlers;
    while let [handler, later @ ..] = rest {
        let takes = match handler.handled {
            Handled::Every | Handled::Rest => true,
            Handled::Named(names) => contains(names, event),
            Handled::Typed {
                aggregate: own,
                events,
            } => same(own, aggregate) && contains(events, event),
        };
        if takes {
            return true;
        }
        rest = later;
    }
    false
}

/// The name that differs by one letter: one more, one less, another, or two swapped.
const fn nearest<'a>(list: &[&'a str], name: &str) -> Option<&'a str> {
    let mut rest = list;
    while let [first, later @ ..] = rest {
        if differs_by_a_letter(first.as_bytes(), name.as_bytes()) {
            return Some(first);
        }
        rest = later;
    }
    None
}

/// Skips the common prefix and suffix: at most a letter on either side may remain, or two letters
/// that are swapped.
const fn differs_by_a_letter(one: &[u8], other: &[u8]) -> bool {
    let (mut one, mut other) = (one, other);
    while let ([a, more @ ..], [b, others @ ..]) = (one, other) {
        if *a != *b {
            break;
        }
        (one, other) = (more, others);
    }
    while let ([more @ .., a], [others @ .., b]) = (one, other) {
        if *a != *b {
            break;
        }
        (one, other) = (more, others);
    }
    match (one, other) {
        ([_], [] | [_]) | ([], [_]) => true,
        ([a, b], [c, d]) => *a == *d && *b == *c,
        _ => false,
    }
}
