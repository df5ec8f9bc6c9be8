//! The rules of an `impl` block as a whole: which of its functions are handlers, and whether they may
//! be combined.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::Type;

use super::method;
use crate::errors::{Errors, HANDLE_BESIDE_ON};
use crate::item::{Function, ImplBlock, On, OnEvents};
use crate::keys;
use crate::model::{Cfgs, Choice, Database, Handler, Handlers};
use crate::suggest::closest;

/// Names that are mistaken for `handle`.
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

/// The handlers of the block, `None` if there are none or one of them is wrong.
pub(super) fn handlers(block: &ImplBlock, errors: &mut Errors) -> Option<Handlers> {
    let marked: Vec<(&Function, &On)> = block
        .functions()
        .filter_map(|function| Some((function, only_mark(function, errors)?)))
        .collect();
    let handle: Vec<&Function> = block
        .functions()
        .filter(|function| function.is_handle())
        .collect();

    refuse_two_handles(&handle, errors);
    refuse_mixture(&handle, &marked, errors);
    refuse_repeated_names(&marked, errors);
    refuse_two_of_a_kind(&marked, errors);
    if handle.is_empty() && !block.functions().any(handles_events) {
        report_no_handler(block, errors);
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

/// The only `#[on]` of a function.
fn only_mark<'a>(function: &'a Function, errors: &mut Errors) -> Option<&'a On> {
    let mut marks = function.on.iter();
    let first = marks.next()?;
    for second in marks {
        errors.at(
            &second.attribute,
            "a method takes one `#[on]`: write all names in one, as in `#[on(\"UserRegistered\", \"UserImported\")]`",
        );
    }
    Some(first)
}

/// Two `handle` with no `cfg` to choose between them.
fn refuse_two_handles(handle: &[&Function], errors: &mut Errors) {
    for (index, function) in handle.iter().enumerate() {
        let cfgs = function.cfgs();
        let is_second = handle
            .iter()
            .take(index)
            .any(|before| before.cfgs() == cfgs);
        if is_second {
            errors.at(
                &function.signature.ident,
                "`handle` is defined twice: keep one, or mark methods with `#[on]` to handle different events",
            );
        }
    }
}

/// `handle` beside `#[on]`. Where `cfg` may choose between them, generated code checks it.
fn refuse_mixture(handle: &[&Function], marked: &[(&Function, &On)], errors: &mut Errors) {
    let mixed = handle.iter().find(|handle| {
        let cfgs = handle.cfgs();
        marked
            .iter()
            .filter(|(_, on)| !matches!(on.events, Some(OnEvents::Reset)))
            .any(|(function, _)| function.cfgs() == cfgs)
    });
    if let Some(handle) = mixed {
        errors.at(&handle.signature.ident, HANDLE_BESIDE_ON);
    }
}

/// The same event name in two `#[on("…")]`.
fn refuse_repeated_names(marked: &[(&Function, &On)], errors: &mut Errors) {
    let mut seen: Vec<(String, String, Cfgs)> = Vec::new();
    for (function, on) in marked {
        let Some(OnEvents::Named(names)) = &on.events else {
            continue;
        };
        let method = function.signature.ident.to_string();
        let cfgs = function.cfgs();
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
                        "`{text}` is already handled by `{other}`: remove the name from one of the two"
                    )
                };
                errors.at(name, message);
            }
            if text.trim() != text || text.is_empty() {
                errors.at(
                    name,
                    "an event name must not be empty or have white space around it: write `#[on(\"UserRegistered\")]`",
                );
            }
            seen.push((text, method.clone(), cfgs.clone()));
        }
    }
}

/// Two `#[on(other)]`, or two `#[on(reset)]`.
fn refuse_two_of_a_kind(marked: &[(&Function, &On)], errors: &mut Errors) {
    for kind in [keys::OTHER, keys::RESET] {
        let mut same = marked.iter().filter(|(_, on)| is_kind(on, kind));
        let Some((first, _)) = same.next() else {
            continue;
        };
        for (second, on) in same {
            if second.cfgs() == first.cfgs() {
                errors.at(
                    &on.attribute,
                    format!(
                        "`{}` is already marked `#[on({kind})]`: keep one of the two",
                        first.signature.ident
                    ),
                );
            }
        }
    }
}

fn is_kind(on: &On, kind: &str) -> bool {
    match &on.events {
        Some(OnEvents::Other) => kind == keys::OTHER,
        Some(OnEvents::Reset) => kind == keys::RESET,
        _ => false,
    }
}

fn report_no_handler(block: &ImplBlock, errors: &mut Errors) {
    let near = block.functions().find(|function| {
        let name = function.signature.ident.to_string();
        closest(&name, &[keys::HANDLE]).is_some() || NEAR_MISSES.contains(&name.as_str())
    });
    if let Some(function) = near {
        let name = &function.signature.ident;
        errors.at(
            name,
            format!("this consumer has no handler: rename `{name}` to `handle`"),
        );
        return;
    }
    // The function that is being typed may become the handler.
    if let Some(function) = block.unfinished_function() {
        errors.at(
            function,
            "this consumer has no complete handler: finish this function, as in `async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError>`",
        );
        return;
    }
    errors.at(
        block.self_type.to_token_stream(),
        "this consumer has no handler: add `async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError>`, or mark methods with `#[on]`",
    );
}

/// The databases of the handlers' connections. A handler without a `cfg` decides alone, since it is
/// always compiled. If each has a `cfg`, the first that is compiled decides, and if none is, the
/// consumer takes no transaction.
pub(super) fn databases(handlers: &Handlers) -> Vec<Choice> {
    let mut choices: Vec<(Cfgs, Type)> = Vec::new();
    for method in handlers.methods() {
        let Some(connection) = method.transaction() else {
            continue;
        };
        if method.cfgs.0.is_empty() {
            return vec![Choice::always(Database::of(connection))];
        }
        if choices.iter().all(|(cfgs, _)| *cfgs != method.cfgs) {
            choices.push((method.cfgs.clone(), connection.clone()));
        }
    }
    let mut before: Vec<TokenStream> = Vec::new();
    let mut databases = Vec::new();
    for (cfgs, connection) in &choices {
        let condition = cfgs.condition();
        databases.push(Choice {
            condition: (!before.is_empty())
                .then(|| quote!(all(#condition, not(any(#(#before),*)))))
                .or_else(|| Some(condition.clone())),
            database: Database::of(connection),
        });
        before.push(condition);
    }
    databases.push(Choice {
        condition: (!before.is_empty()).then(|| quote!(not(any(#(#before),*)))),
        database: Database::Any,
    });
    databases
}
