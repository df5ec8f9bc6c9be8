//! The rules of handlers of a read model: those that are not `async`, and how the others differ.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Expr, Ident, Pat, Path, ReturnType, Type};

use super::connection::names_a_connection;
use super::event::event_of;
use super::method::{events, method};
use super::parameter::{Given, Kind, Role, is_context, without_self};
use crate::errors::Errors;
use crate::item::{Function, ImplBlock, On, OnEvents, OnKey};
use crate::keys;
use crate::model::{Form, Handler, KeyPart, Method, Parameter, RowKey, Rows};
use crate::names::snake_case;
use crate::types::{last_name, type_arguments, unwrapped};

/// A method that folds an event into rows.
pub(super) fn on(
    function: &Function,
    on: &On,
    taken: &OnEvents,
    block: &ImplBlock,
    row: &Path,
    errors: &mut Errors,
) -> Option<Handler> {
    let given = Given::read(function, Kind::Fold, errors);
    let fits =
        refuse_rows_by_value(&given, row, errors) && event_of(function, taken, &given, errors);
    let pattern = event_pattern(&given, taken);
    let method = method(function, given, block, errors);
    let key = match &on.key {
        Some(key) => Some(row_key(key, pattern.as_deref(), &block.self_type, errors)?),
        None => None,
    };
    let method = method.filter(|_| fits)?;
    let rows = match (has_row(&method, function), key) {
        (true, Some(key)) => Rows::Named {
            pattern: pattern?,
            key,
        },
        (true, None) => Rows::OfAggregate(Box::new(on.attribute.clone())),
        (false, None) => Rows::None,
        (false, Some(_)) => {
            refuse_key_without_row(function, on, row, errors);
            return None;
        }
    };
    Some(Handler {
        events: events(taken, &method)?,
        form: Form::Fold(rows),
        method,
    })
}

/// A row that looks like a second event.
fn refuse_rows_by_value(given: &Given<'_>, row: &Path, errors: &mut Errors) -> bool {
    let mut fits = true;
    for (written, parameter) in given.right() {
        let (Parameter::Decoded(ty) | Parameter::Shared(ty)) = parameter else {
            continue;
        };
        if is_named_as(ty, row) {
            fits = false;
            let ty = ty.to_token_stream();
            errors.at(
                &written.ty,
                format!("a handler takes its row by mutable reference: write `&mut {ty}`"),
            );
        }
    }
    fits
}

fn is_named_as(ty: &Type, row: &Path) -> bool {
    let row = row.segments.last().map(|last| last.ident.to_string());
    row.is_some() && last_name(ty) == row
}

/// The pattern of the parameter for the event, `_` if there is none.
fn event_pattern(given: &Given<'_>, taken: &OnEvents) -> Option<Box<Pat>> {
    let mut events = given.right().filter(|(_, parameter)| match parameter {
        Parameter::Decoded(_) => true,
        Parameter::Shared(ty) => !is_context(ty),
        _ => false,
    });
    let Some((event, _)) = events.next() else {
        let may_be_missing = matches!(taken, OnEvents::Variant(_));
        return may_be_missing.then(|| Box::new(syn::parse_quote!(_)));
    };
    let mut pattern = event.pat.clone();
    if let Pat::Ident(name) = &mut *pattern {
        name.mutability = None;
    }
    Some(pattern)
}

/// Whether it takes or returns a row.
fn has_row(method: &Method, function: &Function) -> bool {
    let mut parameters = method.parameters.iter();
    parameters.any(|parameter| matches!(parameter, Parameter::Row(_)))
        || returns_something(&function.signature.output)
}

/// Whether it may return a row: anything but `()` and a `Result` of it.
fn returns_something(output: &ReturnType) -> bool {
    let ReturnType::Type(_, ty) = output else {
        return false;
    };
    let is_unit = |ty: &Type| matches!(unwrapped(ty), Type::Tuple(tuple) if tuple.elems.is_empty());
    let is_result = last_name(ty).is_some_and(|name| name.ends_with("Result"));
    let is_result_of_unit = is_result
        && type_arguments(ty)
            .first()
            .is_some_and(|value| is_unit(value));
    !is_unit(ty) && !is_result_of_unit
}

fn refuse_key_without_row(function: &Function, on: &On, row: &Path, errors: &mut Errors) {
    let Some(key) = &on.key else {
        return;
    };
    let name = &function.signature.ident;
    let row = row.to_token_stream().to_string().replace(' ', "");
    let parameter = parameter_name(&row);
    errors.at(
        &key.word,
        format!(
            "`{name}` has no row for this key: take `{parameter}: &mut {row}`, return a `{row}`, or remove `key`"
        ),
    );
}

/// The name of a parameter for a row of this type.
fn parameter_name(row: &str) -> String {
    snake_case(row.rsplit("::").next().unwrap_or("row"))
}

fn row_key(
    key: &OnKey,
    pattern: Option<&Pat>,
    self_type: &Type,
    errors: &mut Errors,
) -> Option<RowKey> {
    if mentions_self(key.rows.to_token_stream()) {
        errors.at(
            &key.rows,
            "a key depends on the event alone: remove `self`, and put the key into the event",
        );
        return None;
    }
    if !refuse_other_names(&key.rows, pattern?, errors) {
        return None;
    }
    let part = |expression: &Expr| key_part(expression, self_type);
    Some(match without_parentheses(&key.rows) {
        Expr::Tuple(tuple) if !tuple.elems.is_empty() => {
            let span = tuple.paren_token.span.join();
            RowKey::Tuple(span, tuple.elems.iter().map(part).collect())
        }
        one => RowKey::One(part(one)),
    })
}

/// Refuses a key over something that is not the event.
fn refuse_other_names(key: &Expr, pattern: &Pat, errors: &mut Errors) -> bool {
    let Some(other) = roots(key).into_iter().find(|root| {
        let is_variable = root.to_string().starts_with(|c: char| c.is_lowercase());
        is_variable && *root != keys::AGGREGATE_ID && !mentions(pattern.to_token_stream(), root)
    }) else {
        return true;
    };
    let message = format!(
        "the handler has no parameter `{other}`, which `key` uses: add `{other}: …`, or give the event's parameter this name"
    );
    errors.at(other, message);
    false
}

/// The names that the parts of a key begin with, as `event` in `event.payload.id`.
fn roots(key: &Expr) -> Vec<&Ident> {
    match key {
        Expr::Tuple(tuple) => tuple.elems.iter().flat_map(roots).collect(),
        Expr::Field(field) => roots(&field.base),
        Expr::Group(group) => roots(&group.expr),
        Expr::Index(index) => roots(&index.expr),
        Expr::MethodCall(call) => roots(&call.receiver),
        Expr::Paren(paren) => roots(&paren.expr),
        Expr::Path(path) => path.path.get_ident().into_iter().collect(),
        Expr::Reference(reference) => roots(&reference.expr),
        Expr::Unary(unary) => roots(&unary.expr),
        _ => Vec::new(),
    }
}

fn mentions(tokens: TokenStream, name: &Ident) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == *name,
        TokenTree::Group(group) => mentions(group.stream(), name),
        _ => false,
    })
}

fn mentions_self(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "self",
        TokenTree::Group(group) => mentions_self(group.stream()),
        _ => false,
    })
}

fn without_parentheses(expression: &Expr) -> &Expr {
    match expression {
        Expr::Paren(inner) => without_parentheses(&inner.expr),
        Expr::Group(inner) => without_parentheses(&inner.expr),
        other => other,
    }
}

fn key_part(expression: &Expr, self_type: &Type) -> KeyPart {
    if let Expr::Path(path) = without_parentheses(expression)
        && let Some(word) = path.path.get_ident()
        && word == keys::AGGREGATE_ID
    {
        return KeyPart::AggregateId(word.clone());
    }
    let outside = syn::parse2(without_self(expression.to_token_stream(), self_type));
    KeyPart::Expression(Box::new(outside.unwrap_or_else(|_| expression.clone())))
}

/// An `async` handler of a read model writes SQL: otherwise it would have no effect on the rows.
pub(super) fn refuse_async_without_tx(
    function: &Function,
    row: &Path,
    errors: &mut Errors,
) -> bool {
    let given = Given::read(function, Kind::Async, &mut Errors::default());
    let takes_connection = given.has_wrong(Role::Mutable)
        || given.right().any(
            |(_, parameter)| matches!(parameter, Parameter::Transaction(ty) if !is_row(ty, row)),
        );
    if takes_connection {
        return true;
    }
    errors.at(
        function.signature.asyncness.to_token_stream(),
        "a handler of a read model is not `async`, unless it writes SQL: remove `async`, or take `tx: &mut SqliteConnection` or `tx: &mut PgConnection`",
    );
    false
}

/// `&mut User` or `&mut Option<User>`, by the names.
fn is_row(ty: &Type, row: &Path) -> bool {
    let is_connection = last_name(ty).is_some_and(|name| names_a_connection(&name));
    let is_option = last_name(ty).is_some_and(|name| name == "Option");
    !is_connection && (is_option || is_named_as(ty, row))
}

/// Refuses `key` on a handler that has no row.
pub(super) fn refuse_key(on: &On, message: &str, errors: &mut Errors) -> bool {
    if let Some(key) = &on.key {
        errors.at(&key.word, message);
    }
    on.key.is_none()
}
