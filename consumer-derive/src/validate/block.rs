//! The rules of an `impl` block as a whole: which of its functions are handlers, and whether they may
//! be combined.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::Type;

use super::{fold, keys as rules, method};
use crate::args::Args;
use crate::errors::{Errors, HANDLE_BESIDE_ON};
use crate::item::{Function, ImplBlock, On, OnEvents};
use crate::keys;
use crate::model::{Cfgs, Choice, Database, Handler, Handlers, KeyPart, Method, RowKey, Rows};
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
pub(super) fn handlers(args: &Args, block: &ImplBlock, errors: &mut Errors) -> Option<Handlers> {
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
        report_no_handler(args, block, errors);
        return None;
    }
    refuse_handle_of_read_model(args, &handle, errors);

    let mut events: Vec<Option<Handler>> = handle
        .iter()
        .map(|function| method::every(function, block, errors))
        .collect();
    let mut resets = Vec::new();
    for (function, on) in marked {
        match &on.events {
            Some(OnEvents::Reset) => resets.push(reset(function, on, block, errors)),
            Some(taken) => events.push(by_event(args, function, on, taken, block, errors)),
            None => {}
        }
    }
    let events: Vec<Handler> = events.into_iter().collect::<Option<_>>()?;
    refuse_segments_of_other_keys(args, &events, errors);
    Some(Handlers {
        events,
        resets: resets.into_iter().collect::<Option<_>>()?,
        read_model: args.read_model.value().cloned(),
        ignored: rules::ignored(args, errors),
    })
}

/// A method marked `#[on]`. Those of a read model are not `async`, unless they write SQL.
fn by_event(
    args: &Args,
    function: &Function,
    on: &On,
    taken: &OnEvents,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Handler> {
    let Some(row) = args.read_model.value() else {
        // A key that was refused was meant as the read model.
        let is_meant = args.read_model.key().is_some();
        let fits = is_meant || fold::refuse_key(on, KEY_WITHOUT_READ_MODEL, errors);
        if is_meant && function.signature.asyncness.is_none() {
            return None;
        }
        return method::on(function, taken, block, errors).filter(|_| fits);
    };
    if function.signature.asyncness.is_none() {
        return fold::on(function, on, taken, block, row, errors);
    }
    let fits = fold::refuse_async_without_tx(function, row, errors)
        && fold::refuse_key(on, KEY_OF_SQL, errors);
    fits.then(|| method::on(function, taken, block, errors))?
}

const KEY_WITHOUT_READ_MODEL: &str = "`key` names a row of a read model: add `read_model = User` to `#[consumer(…)]`, with a type that derives `ReadModel`, or remove `key`";
const KEY_OF_SQL: &str = "`key` names the row of a handler that is not `async`: remove `key`, or remove `async` and `tx`";
const KEY_OF_RESET: &str = "a method marked `#[on(reset)]` handles no event: remove `key`";

fn reset(function: &Function, on: &On, block: &ImplBlock, errors: &mut Errors) -> Option<Method> {
    let fits = fold::refuse_key(on, KEY_OF_RESET, errors);
    method::reset(function, block, errors).filter(|_| fits)
}

/// `handle` sees no event type, by which rows are found.
fn refuse_handle_of_read_model(args: &Args, handle: &[&Function], errors: &mut Errors) {
    if args.read_model.key().is_none() {
        return;
    }
    for function in handle {
        errors.at(
            &function.signature.ident,
            "a consumer with a `read_model` has a method for each event: mark them with `#[on]` instead of writing `handle`, or remove `read_model`",
        );
    }
}

/// Segments divide aggregates among them, so that two segments could write the row of another key.
fn refuse_segments_of_other_keys(args: &Args, events: &[Handler], errors: &mut Errors) {
    let Some(segments) = args.segments.value() else {
        return;
    };
    if segments.base10_digits() == "1" {
        return;
    }
    for handler in events {
        let Some(Rows::Named { key, .. }) = handler.rows() else {
            continue;
        };
        if !matches!(key, RowKey::One(KeyPart::AggregateId(_))) {
            errors.at(
                key,
                format!(
                    "with `segments`, a row belongs to one aggregate: write `key = aggregate_id`, or remove `segments = {segments}`"
                ),
            );
        }
    }
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
        let advice = instead_of_two(first, second);
        errors.at(
            &second.attribute,
            format!("a method takes one `#[on]`: {advice}"),
        );
    }
    Some(first)
}

/// What to write instead of two `#[on]` on one method.
fn instead_of_two(first: &On, second: &On) -> String {
    let (Some(OnEvents::Named(names)), Some(OnEvents::Named(others))) =
        (&first.events, &second.events)
    else {
        return "remove one of the two, or write a method for each".to_owned();
    };
    let mut all: Vec<String> = Vec::new();
    for name in names.iter().chain(others) {
        let name = name.to_token_stream().to_string();
        if !all.contains(&name) {
            all.push(name);
        }
    }
    if all.len() == names.len() {
        return "remove this one, which names no other event".to_owned();
    }
    format!("write `#[on({})]`", all.join(", "))
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
    let mut seen: Vec<Named> = Vec::new();
    for (function, on) in marked {
        let Some(OnEvents::Named(names)) = &on.events else {
            continue;
        };
        for name in names {
            let handled = Named {
                event: name.value(),
                method: function.signature.ident.to_string(),
                cfgs: function.cfgs(),
                has_key: on.key.is_some(),
            };
            if let Some(before) = seen.iter().find(|before| before.collides_with(&handled)) {
                errors.at(name, handled.again(before));
            }
            if handled.event.trim() != handled.event || handled.event.is_empty() {
                errors.at(
                    name,
                    "an event name must not be empty or have white space around it: write `#[on(\"UserRegistered\")]`",
                );
            }
            seen.push(handled);
        }
    }
}

/// An event name in `#[on("…")]`.
struct Named {
    event: String,
    method: String,
    cfgs: Cfgs,
    has_key: bool,
}

impl Named {
    /// Whether both would handle the same event. Handlers that each name a row may.
    fn collides_with(&self, other: &Self) -> bool {
        let are_together =
            self.cfgs == other.cfgs || self.cfgs.0.is_empty() || other.cfgs.0.is_empty();
        let are_for_rows = self.has_key && other.has_key && self.method != other.method;
        self.event == other.event && are_together && !are_for_rows
    }

    /// The message about an event that is named again.
    fn again(&self, before: &Self) -> String {
        let Self { event, method, .. } = self;
        if before.method == *method {
            return format!("`{event}` is named twice: remove one of the two");
        }
        let before = &before.method;
        format!("`{event}` is already handled by `{before}`: remove the name from one of the two")
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

fn report_no_handler(args: &Args, block: &ImplBlock, errors: &mut Errors) {
    if let Some(row) = args.read_model.value() {
        let row = row.to_token_stream().to_string().replace(' ', "");
        errors.at(
            block.self_type.to_token_stream(),
            format!(
                "this consumer has no handler: mark methods with `#[on]`, as in `#[on] fn registered(&self, event: Envelope<'_, UserRegistered>) -> {row}`"
            ),
        );
        return;
    }
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
