//! A consumer that has been validated: nothing here can be wrong any more, as far as a macro sees.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Attribute, Ident, Path, Type};

use crate::args::Aggregate;

/// A declared consumer.
pub(crate) struct Model {
    /// The path of the `consumer` crate.
    pub(crate) krate: Path,
    pub(crate) self_type: Type,
    pub(crate) name: String,
    pub(crate) group: Option<String>,
    /// `None` when the consumer is not scoped.
    pub(crate) scope: Option<Vec<Aggregate>>,
    pub(crate) settings: Settings,
    pub(crate) making: Making,
    pub(crate) database: Database,
    pub(crate) body: Body,
}

/// The operational settings that differ from the defaults.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) start_from_now: bool,
    pub(crate) on_error: Option<OnError>,
    pub(crate) retries: Option<u32>,
    /// Milliseconds.
    pub(crate) backoff: Option<(u64, u64)>,
    pub(crate) batch_size: Option<u32>,
    /// Milliseconds.
    pub(crate) batch_time: Option<u64>,
    /// Milliseconds.
    pub(crate) handler_timeout: Option<u64>,
}

/// What follows when the retries are used up.
pub(crate) enum OnError {
    Stop,
    Park,
    Skip,
}

/// How an instance is made.
pub(crate) enum Making {
    /// `init` says.
    Init(Path),
    /// The name is tried as a value, for unit structs, and `Default` otherwise.
    UnitOrDefault(Path),
    /// The type is no plain path, hence no unit struct.
    Default,
}

/// The database that the consumer runs on.
pub(crate) enum Database {
    /// Every one: no handler takes a transaction (R5).
    Any,
    /// The one that a type names.
    Named(Box<Type>),
    /// The one that the connections belong to; several only where `cfg` chooses among them.
    OfConnection(Vec<(Cfgs, Type)>),
}

/// The `cfg` attributes of a handler, which every mention of it carries along: the block arrives
/// before they are evaluated.
#[derive(Clone, Default)]
pub(crate) struct Cfgs(pub(crate) Vec<Attribute>);

impl PartialEq for Cfgs {
    fn eq(&self, other: &Self) -> bool {
        self.to_token_stream().to_string() == other.to_token_stream().to_string()
    }
}

/// What the consumer does.
pub(crate) enum Body {
    /// A struct, which implements `Handler` by hand.
    ByHand,
    /// An `impl` block with handlers.
    Handlers(Handlers),
}

/// The handlers of an `impl` block.
pub(crate) struct Handlers {
    pub(crate) events: Vec<Handler>,
    /// One, or several that `cfg` chooses among.
    pub(crate) resets: Vec<Method>,
}

/// A handler of events.
pub(crate) struct Handler {
    pub(crate) method: Method,
    pub(crate) events: Events,
    /// Whether it takes a slice: the whole batch for [`Events::Every`], a run of it otherwise.
    pub(crate) many: bool,
}

/// The events that a handler takes.
pub(crate) enum Events {
    /// Every event in scope: the method is `handle`.
    Every,
    /// Those of the type of its parameter, as `#[on]` says.
    Typed(Box<Type>),
    /// Those of these event types.
    Named(Vec<syn::LitStr>),
    /// Those that the other handlers leave.
    Rest,
}

/// A method as the generated code calls it.
pub(crate) struct Method {
    pub(crate) name: Ident,
    pub(crate) cfgs: Cfgs,
    /// What stands between the parentheses after `&self`, in order.
    pub(crate) parameters: Vec<Parameter>,
    /// The return type, where messages about it point.
    pub(crate) output: TokenStream,
}

/// A parameter of a handler, by the shape of its type; the type is that behind the reference.
pub(crate) enum Parameter {
    /// `&mut T`: the connection.
    Transaction(Type),
    /// `&T`: the event or the context, as the type decides.
    Shared(Type),
    /// `T`: a decoded event.
    Decoded(Type),
    /// `&[T]`: several events.
    Several(Type),
}

impl Method {
    pub(crate) fn takes_transaction(&self) -> bool {
        self.transaction().is_some()
    }

    /// The type of the connection that it takes.
    pub(crate) fn transaction(&self) -> Option<&Type> {
        self.parameters
            .iter()
            .find_map(|parameter| match parameter {
                Parameter::Transaction(connection) => Some(connection),
                _ => None,
            })
    }
}

impl Handlers {
    pub(crate) fn methods(&self) -> impl Iterator<Item = &Method> {
        self.events
            .iter()
            .map(|handler| &handler.method)
            .chain(&self.resets)
    }

    /// Whether the whole of the block is one `handle`, or several that `cfg` chooses among.
    pub(crate) fn take_every_event(&self) -> bool {
        self.events
            .iter()
            .any(|handler| matches!(handler.events, Events::Every))
    }

    pub(crate) fn take_the_rest(&self) -> bool {
        self.events
            .iter()
            .any(|handler| matches!(handler.events, Events::Rest))
    }
}

impl ToTokens for Cfgs {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        for cfg in &self.0 {
            cfg.to_tokens(tokens);
        }
    }
}
