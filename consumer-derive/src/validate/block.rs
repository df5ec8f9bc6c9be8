//! The rules of an `impl` block as a whole: which of its functions are handlers, and whether they
//! go together.

use quote::ToTokens;

use super::method;
use crate::errors::Errors;
use crate::item::{Function, ImplBlock, On, OnEvents};
use crate::model::{Cfgs, Database, Events, Handler, Handlers};
use crate::suggest::closest;

/// What people call the handler by mistake.
const NEAR_MISSES: &[&str] = &[
    "on_event",
    "handle_event",
    "process",
    "process_event",
    "consume",
    "apply",
    "run",
    "call",
];

/// The handlers of the block; `None` when there are none, or one of them is wrong.
pub(super) fn handlers(block: &ImplBlock, errors: &mut Errors) -> Option<Handlers> {
    let marked: Vec<(&Function, &On)> = block
        .functions()
        .filter_map(|function| Some((function, only_mark(function, errors)?)))
        .collect();
    let handle: Vec<&Function> = block
        .functions()
        .filter(|function| function.on.is_empty() && function.signature.ident == "handle")
        .collect();

    refuse_mixture(&handle, &marked, errors);
    refuse_repeated_names(&marked, errors);
    refuse_two_of_a_kind(&marked, errors);
    if handle.is_empty() && !block.functions().any(handles_events) {
        // A function that is being typed may become the handler; what is wrong with it, the
        // compiler says.
        if !block.has_unreadable_function() {
            report_no_handler(block, errors);
        }
        return None;
    }

    let mut events: Vec<Option<Handler>> = handle
        .iter()
        .map(|function| method::every(function, block, errors))
        .collect();
    let mut resets = Vec::new();
    for (function, on) in marked {
        match &on.events {
            Some(OnEvents::Reset) => resets.push(method::reset(function, block, errors)),
            Some(taken) => events.push(method::on(function, taken, block, errors)),
            None => {}
        }
    }
    Some(Handlers {
        events: events.into_iter().collect::<Option<_>>()?,
        resets: resets.into_iter().collect::<Option<_>>()?,
    })
}

fn handles_events(function: &Function) -> bool {
    function
        .on
        .iter()
        .any(|on| !matches!(on.events, Some(OnEvents::Reset)))
}

/// The one `#[on]` of a function.
fn only_mark<'a>(function: &'a Function, errors: &mut Errors) -> Option<&'a On> {
    let mut marks = function.on.iter();
    let first = marks.next()?;
    for second in marks {
        errors.at(
            &second.attribute,
            "one `#[on]` a method: put all the names into one, `#[on(\"UserRegistered\", \"UserImported\")]`",
        );
    }
    Some(first)
}

fn refuse_mixture(handle: &[&Function], marked: &[(&Function, &On)], errors: &mut Errors) {
    let takes_events = marked
        .iter()
        .any(|(_, on)| !matches!(on.events, Some(OnEvents::Reset)));
    if let (Some(handle), true) = (handle.first(), takes_events) {
        errors.at(
            &handle.signature.ident,
            "`handle` takes every event, so nothing is left for the `#[on]` handlers: remove one or the other, or mark this one `#[on(other)]`",
        );
    }
}

/// The same event name in two `#[on("…")]`, which the macro can see by itself.
fn refuse_repeated_names(marked: &[(&Function, &On)], errors: &mut Errors) {
    let mut seen: Vec<(String, String, Cfgs)> = Vec::new();
    for (function, on) in marked {
        let Some(OnEvents::Named(names)) = &on.events else {
            continue;
        };
        let method = function.signature.ident.to_string();
        let cfgs = method::cfgs(function);
        for name in names {
            let text = name.value();
            let before = seen.iter().find(|(seen, _, other)| {
                *seen == text && (*other == cfgs || other.0.is_empty() || cfgs.0.is_empty())
            });
            if let Some((_, other, _)) = before {
                let message = if *other == method {
                    format!("`{text}` is named twice: remove one of the two")
                } else {
                    format!(
                        "`{text}` already has a handler, `{other}`: an event goes to one method"
                    )
                };
                errors.at(name, message);
            }
            if text.trim() != text || text.is_empty() {
                errors.at(
                    name,
                    "an event name is not empty and has no white space around it: it would match nothing",
                );
            }
            seen.push((text, method.clone(), cfgs.clone()));
        }
    }
}

/// Two `#[on(other)]`, or two `#[on(reset)]`.
fn refuse_two_of_a_kind(marked: &[(&Function, &On)], errors: &mut Errors) {
    for kind in ["other", "reset"] {
        let mut same = marked.iter().filter(|(_, on)| is_kind(on, kind));
        let Some((first, _)) = same.next() else {
            continue;
        };
        for (second, on) in same {
            if method::cfgs(second) == method::cfgs(first) {
                errors.at(
                    &on.attribute,
                    format!(
                        "`{}` is marked `#[on({kind})]` already: a consumer has one",
                        first.signature.ident
                    ),
                );
            }
        }
    }
}

fn is_kind(on: &On, kind: &str) -> bool {
    match &on.events {
        Some(OnEvents::Other) => kind == "other",
        Some(OnEvents::Reset) => kind == "reset",
        _ => false,
    }
}

fn report_no_handler(block: &ImplBlock, errors: &mut Errors) {
    let near = block.functions().find(|function| {
        let name = function.signature.ident.to_string();
        closest(&name, &["handle"]).is_some() || NEAR_MISSES.contains(&name.as_str())
    });
    if let Some(function) = near {
        let name = &function.signature.ident;
        errors.at(
            name,
            format!(
                "this consumer has no handler: rename `{name}` to `handle`, if this is the one"
            ),
        );
        return;
    }
    errors.at(
        block.self_type.to_token_stream(),
        "this consumer has no handler: add `async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError>`, or mark methods with `#[on]`",
    );
}

/// The database that the handlers show by their connections. Those without a `cfg` speak for all,
/// since they are always there; where every one has a `cfg`, one of each stands in.
pub(super) fn database(handlers: &Handlers) -> Database {
    let mut connections: Vec<(Cfgs, syn::Type)> = Vec::new();
    for method in handlers.methods() {
        let Some(connection) = method.transaction() else {
            continue;
        };
        if method.cfgs.0.is_empty() {
            return Database::OfConnection(vec![(Cfgs::default(), connection.clone())]);
        }
        if connections.iter().all(|(cfgs, _)| *cfgs != method.cfgs) {
            connections.push((method.cfgs.clone(), connection.clone()));
        }
    }
    let alternatives = handlers
        .events
        .iter()
        .all(|handler| matches!(handler.events, Events::Every));
    if !alternatives {
        connections.truncate(1);
        for (cfgs, _) in &mut connections {
            *cfgs = Cfgs::default();
        }
    }
    if connections.is_empty() {
        Database::Any
    } else {
        Database::OfConnection(connections)
    }
}
