//! The rules of one handler. Those of handlers that are not `async` are in `fold`.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{ReturnType, Type};

use super::event::{Wanted, event_of, one_event, refuse_decoded_in_handle};
use super::parameter::{Given, Kind, is_context, refuse_two_of_a_kind};
use super::signature::{
    refuse_cfg_on_parameters, refuse_no_async, refuse_no_output, refuse_no_receiver,
    refuse_qualifiers, refuse_receiver, seems_to_fold,
};
use crate::errors::Errors;
use crate::item::{Function, ImplBlock, OnEvents};
use crate::model::{Events, Form, Handler, Method, Parameter};

/// `handle`, which takes every event.
pub(super) fn every(
    function: &Function,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Handler> {
    let given = Given::read(function, Kind::Async, errors);
    let fits = refuse_decoded_in_handle(function, &given, errors)
        && one_event(function, &given, Wanted::Persisted, errors);
    let method = async_method(function, given, block, errors)?;
    fits.then(|| Handler {
        form: form(&method),
        method,
        events: Events::Every,
    })
}

/// An `async` method marked `#[on]`, except for `#[on(reset)]`.
pub(super) fn on(
    function: &Function,
    taken: &OnEvents,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Handler> {
    let given = Given::read(function, Kind::Async, errors);
    let fits = event_of(function, taken, &given, errors);
    let method = async_method(function, given, block, errors)?;
    if !fits {
        return None;
    }
    Some(Handler {
        form: form(&method),
        events: events(taken, &method)?,
        method,
    })
}

/// The events that a marked method takes.
pub(super) fn events(taken: &OnEvents, method: &Method) -> Option<Events> {
    Some(match taken {
        OnEvents::Typed => Events::Typed(Box::new(decoded_type(method)?)),
        OnEvents::Variant(path) => {
            Events::Variant(path.clone(), decoded_type(method).map(Box::new))
        }
        OnEvents::Named(names) => Events::Named(names.clone()),
        OnEvents::Other | OnEvents::Reset => Events::Rest,
    })
}

/// The method marked `#[on(reset)]`.
pub(super) fn reset(function: &Function, block: &ImplBlock, errors: &mut Errors) -> Option<Method> {
    let given = Given::read(function, Kind::Async, errors);
    let mut fits = true;
    for (typed, parameter) in given.right() {
        let takes_event = match parameter {
            Parameter::Shared(ty) => !is_context(ty),
            Parameter::Transaction(_) => false,
            _ => true,
        };
        if takes_event {
            fits = false;
            errors.at(
                typed,
                "a method marked `#[on(reset)]` takes no event: write `async fn reset(&self, tx: &mut SqliteConnection)`",
            );
        }
    }
    let method = async_method(function, given, block, errors)?;
    fits.then_some(method)
}

/// The rules that all `async` handlers share.
fn async_method(
    function: &Function,
    given: Given<'_>,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Method> {
    let signature = &function.signature;
    if signature.asyncness.is_none() && seems_to_fold(signature) {
        errors.at(
            signature.fn_token,
            "a handler must be `async`, unless it changes the rows of a read model: add the type of the rows, as in `#[consumer(…, read_model = User)]`, or write `async fn`",
        );
        return None;
    }
    let fits = refuse_no_async(signature, errors)
        & refuse_no_receiver(signature, errors)
        & refuse_no_output(signature, errors);
    method(function, given, block, errors).filter(|_| fits)
}

/// The rules that all handlers share.
pub(super) fn method(
    function: &Function,
    given: Given<'_>,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Method> {
    let signature = &function.signature;
    let fits = refuse_qualifiers(signature, errors)
        & refuse_receiver(signature, errors)
        & refuse_cfg_on_parameters(signature, errors)
        & refuse_two_of_a_kind(&given, errors);
    let parameters = given.into_parameters(&block.self_type)?;
    fits.then(|| Method {
        has_receiver: signature.receiver().is_some(),
        name: signature.ident.clone(),
        cfgs: function.cfgs(),
        parameters,
        output: match &signature.output {
            ReturnType::Type(_, ty) => ty.to_token_stream(),
            ReturnType::Default => TokenStream::new(),
        },
    })
}

fn form(method: &Method) -> Form {
    let mut parameters = method.parameters.iter();
    if parameters.any(|parameter| matches!(parameter, Parameter::Several(_))) {
        Form::Slice
    } else {
        Form::Single
    }
}

fn decoded_type(method: &Method) -> Option<Type> {
    method
        .parameters
        .iter()
        .find_map(|parameter| match parameter {
            Parameter::Decoded(ty) | Parameter::Several(ty) => Some(ty.clone()),
            _ => None,
        })
}
