//! The rules of a handler's signature, apart from the types of its parameters.

use syn::{FnArg, PatType, ReceiverKind, ReturnType, Safety, Signature, Type};

use crate::errors::Errors;
use crate::keys;
use crate::types::{last_name, unwrapped};

pub(super) fn refuse_no_async(signature: &Signature, errors: &mut Errors) -> bool {
    let is_async = signature.asyncness.is_some();
    if !is_async {
        errors.at(
            signature.fn_token,
            format!(
                "a handler must be `async`: write `async fn {}`",
                signature.ident
            ),
        );
    }
    is_async
}

/// Whether it takes or returns something that may be a row.
pub(super) fn seems_to_fold(signature: &Signature) -> bool {
    let takes_a_row = typed_parameters(signature).any(|typed| match unwrapped(&typed.ty) {
        Type::Reference(reference) => {
            reference.mutability.is_some()
                && last_name(&reference.elem).is_some_and(|name| !name.ends_with("Connection"))
        }
        _ => false,
    });
    takes_a_row
        || match &signature.output {
            ReturnType::Type(_, ty) => last_name(ty).is_some_and(|name| name != "Result"),
            ReturnType::Default => false,
        }
}

pub(super) fn refuse_qualifiers(signature: &Signature, errors: &mut Errors) -> bool {
    let mut fits = true;
    if !signature.generics.params.is_empty() {
        fits = false;
        errors.at(
            &signature.generics.params,
            "a handler cannot be generic: name the types, and write `'_` for lifetimes",
        );
    }
    if matches!(signature.safety, Safety::Unsafe(_)) || signature.abi.is_some() {
        fits = false;
        errors.at(
            &signature.ident,
            "a handler must be an ordinary function: remove `unsafe` and `extern`",
        );
    }
    fits
}

pub(super) fn refuse_no_receiver(signature: &Signature, errors: &mut Errors) -> bool {
    let has_receiver = signature.receiver().is_some();
    if !has_receiver {
        let name = &signature.ident;
        errors.at(
            name,
            format!("a handler must take `&self`: write `async fn {name}(&self, …)`"),
        );
    }
    has_receiver
}

pub(super) fn refuse_receiver(signature: &Signature, errors: &mut Errors) -> bool {
    let Some(receiver) = signature.receiver() else {
        return true;
    };
    match &receiver.kind {
        ReceiverKind::Reference(_, _, None) => true,
        ReceiverKind::Reference(_, _, Some(_)) => {
            errors.at(
                receiver,
                "a handler takes `&self`, since calls share the consumer: write `&self`, and keep state in the database or behind a lock",
            );
            false
        }
        _ => {
            errors.at(
                receiver,
                "a handler takes `&self`, since the next event needs the consumer too: write `&self`",
            );
            false
        }
    }
}

pub(super) fn refuse_no_output(signature: &Signature, errors: &mut Errors) -> bool {
    let returns = matches!(signature.output, ReturnType::Type(..));
    if !returns {
        errors.at(
            &signature.ident,
            format!(
                "`{}` must return a `Result`: write `-> Result<(), HandlerError>`, or another error that `?` converts",
                signature.ident
            ),
        );
    }
    returns
}

pub(super) fn typed_parameters(signature: &Signature) -> impl Iterator<Item = &PatType> {
    signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    })
}

pub(super) fn refuse_cfg_on_parameters(signature: &Signature, errors: &mut Errors) -> bool {
    let mut fits = true;
    let attributes = signature.inputs.iter().flat_map(|input| match input {
        FnArg::Typed(typed) => &typed.attrs,
        FnArg::Receiver(receiver) => &receiver.attrs,
    });
    for attribute in attributes {
        if [keys::CFG, keys::CFG_ATTR]
            .iter()
            .any(|cfg| attribute.path().is_ident(cfg))
        {
            fits = false;
            errors.at(
                attribute,
                "a parameter of a handler cannot have a `cfg`: put it on the method, and write one method for each case",
            );
        }
    }
    fits
}
