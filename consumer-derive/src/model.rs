//! A validated consumer: a macro can find no further mistake in it.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, TokenStreamExt, quote};
use syn::{Attribute, Expr, Ident, Meta, Pat, Path, Type};

use crate::args::Aggregate;

/// A declared consumer.
pub(crate) struct Model {
    /// The path of the `consumer` crate.
    pub(crate) krate: Path,
    pub(crate) self_type: Type,
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) group: Option<String>,
    pub(crate) formerly: Formerly,
    /// `None` when the consumer is not scoped.
    pub(crate) scope: Option<Vec<Aggregate>>,
    pub(crate) settings: Settings,
    pub(crate) construction: Construction,
    /// One, or several that `cfg` chooses among.
    pub(crate) databases: Vec<Choice>,
    pub(crate) body: Body,
}

/// The name that the consumer had before.
pub(crate) enum Formerly {
    /// The attribute does not say.
    Unstated,
    /// It had no other name.
    None,
    Name(String),
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
    pub(crate) segments: Option<u32>,
}

/// The policy for an event whose retries are used up.
pub(crate) enum OnError {
    Stop,
    Park,
    Skip,
}

/// How an instance is made.
pub(crate) enum Construction {
    /// By the function that `init` names.
    Init(Path),
    /// As a unit struct if the path is also a value, and by `Default` otherwise.
    UnitOrDefault(Path),
    /// By `Default`: the type is not a plain path, so it cannot be a unit struct.
    Default,
}

/// A database, under a `cfg` or always.
pub(crate) struct Choice {
    /// The argument of `#[cfg(…)]`.
    pub(crate) condition: Option<TokenStream>,
    pub(crate) database: Database,
}

/// The database that the consumer runs on.
pub(crate) enum Database {
    /// Every one: no handler takes a transaction (R5).
    Any,
    /// The one named by the key `database`.
    Named(Box<Type>),
    /// The one that this type of connection belongs to.
    OfConnection(Box<Type>),
}

impl Database {
    pub(crate) fn of(connection: &Type) -> Self {
        Self::OfConnection(Box::new(connection.clone()))
    }
}

impl Choice {
    pub(crate) fn always(database: Database) -> Self {
        Self {
            condition: None,
            database,
        }
    }
}

/// The `cfg` attributes of a handler. Every mention of the handler repeats them, since a macro sees
/// the block before they are evaluated.
#[derive(Clone, Default)]
pub(crate) struct Cfgs(pub(crate) Vec<Attribute>);

impl Cfgs {
    /// All of them as one condition, true if there are none.
    pub(crate) fn condition(&self) -> TokenStream {
        let conditions = self.0.iter().map(|cfg| match &cfg.meta {
            Meta::List(list) => without_last_comma(list.tokens.clone()),
            other => other.to_token_stream(),
        });
        match self.0.as_slice() {
            [_] => conditions.collect(),
            _ => quote!(all(#(#conditions),*)),
        }
    }
}

fn without_last_comma(tokens: TokenStream) -> TokenStream {
    let mut tokens: Vec<TokenTree> = tokens.into_iter().collect();
    if matches!(tokens.last(), Some(TokenTree::Punct(comma)) if comma.as_char() == ',') {
        tokens.pop();
    }
    tokens.into_iter().collect()
}

impl PartialEq for Cfgs {
    fn eq(&self, other: &Self) -> bool {
        self.to_token_stream().to_string() == other.to_token_stream().to_string()
    }
}

/// Where the handlers are.
pub(crate) enum Body {
    /// In a hand-written implementation of `Handler`, which gets no event of these types.
    ByHand(Vec<syn::LitStr>),
    /// In the `impl` block.
    Handlers(Handlers),
}

/// The handlers of an `impl` block.
pub(crate) struct Handlers {
    pub(crate) events: Vec<Handler>,
    /// One, or several that `cfg` chooses among.
    pub(crate) resets: Vec<Method>,
    /// The read model that handlers fold events into.
    pub(crate) read_model: Option<Path>,
    /// The event types that are passed over.
    pub(crate) ignored: Vec<syn::LitStr>,
}

/// A handler of events.
pub(crate) struct Handler {
    pub(crate) method: Method,
    pub(crate) events: Events,
    pub(crate) form: Form,
}

/// How a handler gets its events.
pub(crate) enum Form {
    /// One by one.
    Single,
    /// In a slice: the whole batch for [`Events::Every`], otherwise a run of events.
    Slice,
    /// One by one, together with the rows that each is about: the handler is not `async`.
    Fold(Rows),
}

/// The rows that an event is about.
pub(crate) enum Rows {
    /// None: the handler neither takes nor returns a row.
    None,
    /// The one whose key is the aggregate id, which the attribute does not say.
    OfAggregate(Box<Attribute>),
    /// Those with the keys that the attribute names, over the parameter with this pattern.
    Named { pattern: Box<Pat>, key: RowKey },
}

/// What names the keys of rows.
pub(crate) enum RowKey {
    /// `key = event.payload.referrer`, which yields one key, none, or several; `key = aggregate_id`.
    One(KeyPart),
    /// `key = (event.payload.account, aggregate_id)`: one key of several parts.
    Tuple(Span, Vec<KeyPart>),
}

/// A key, or one part of it.
pub(crate) enum KeyPart {
    /// `aggregate_id`
    AggregateId(Ident),
    /// Anything else. It is borrowed if it names a place.
    Expression(Box<Expr>),
}

/// The events that a handler takes.
pub(crate) enum Events {
    /// Every event in scope: the method is `handle`.
    Every,
    /// `#[on]`: those of the type of its parameter.
    Typed(Box<Type>),
    /// `#[on(UserEvent::Registered)]`: those of this variant. The type is that of the parameter for the
    /// event, if there is one.
    Variant(Path, Option<Box<Type>>),
    /// `#[on("…")]`: those of these event types.
    Named(Vec<syn::LitStr>),
    /// `#[on(other)]`: those without another handler.
    Rest,
}

/// A method that generated code calls.
pub(crate) struct Method {
    pub(crate) name: Ident,
    pub(crate) cfgs: Cfgs,
    /// The parameters after `&self`, in order.
    pub(crate) parameters: Vec<Parameter>,
    /// The return type, at which mistakes in it are reported.
    pub(crate) output: TokenStream,
    /// Whether it takes `self`.
    pub(crate) has_receiver: bool,
}

/// A parameter of a handler, told by the shape of its type. The type is the one behind the
/// reference.
pub(crate) enum Parameter {
    /// `&mut T`: the connection.
    Transaction(Type),
    /// `&mut T` of a handler that is not `async`: the row, or an `Option` of it.
    Row(Type),
    /// `&T`: the event or the context, depending on the type.
    Shared(Type),
    /// `T`: a decoded event.
    Decoded(Type),
    /// `&[T]`: several events.
    Several(Type),
}

impl Events {
    /// The type of the parameter for the event, if it is decoded.
    pub(crate) fn decoded(&self) -> Option<&Type> {
        match self {
            Self::Typed(ty) | Self::Variant(_, Some(ty)) => Some(ty),
            Self::Variant(_, None) | Self::Every | Self::Named(_) | Self::Rest => None,
        }
    }
}

impl Rows {
    /// Whether the aggregate id is the key.
    pub(crate) fn are_of_aggregate(&self) -> bool {
        match self {
            Self::OfAggregate(_) => true,
            Self::Named { key, .. } => matches!(key, RowKey::One(KeyPart::AggregateId(_))),
            Self::None => false,
        }
    }
}

impl Handler {
    pub(crate) fn takes_slice(&self) -> bool {
        matches!(self.form, Form::Slice)
    }

    /// The rows of a handler that is not `async`.
    pub(crate) fn rows(&self) -> Option<&Rows> {
        match &self.form {
            Form::Fold(rows) => Some(rows),
            Form::Single | Form::Slice => None,
        }
    }
}

impl Method {
    pub(crate) fn takes_transaction(&self) -> bool {
        self.transaction().is_some()
    }

    /// The type of its connection.
    pub(crate) fn transaction(&self) -> Option<&Type> {
        self.parameters
            .iter()
            .find_map(|parameter| match parameter {
                Parameter::Transaction(connection) => Some(connection),
                _ => None,
            })
    }
}

impl Model {
    /// The rows that handlers fold events into.
    pub(crate) fn read_model(&self) -> Option<&Path> {
        match &self.body {
            Body::ByHand(_) => None,
            Body::Handlers(handlers) => handlers.read_model.as_ref(),
        }
    }
}

impl Model {
    /// The event types that are passed over.
    pub(crate) fn ignored(&self) -> &[syn::LitStr] {
        match &self.body {
            Body::ByHand(ignored) => ignored,
            Body::Handlers(handlers) => &handlers.ignored,
        }
    }
}

impl Handlers {
    pub(crate) fn methods(&self) -> impl Iterator<Item = &Method> {
        self.events
            .iter()
            .map(|handler| &handler.method)
            .chain(&self.resets)
    }

    /// `handle`, or several that `cfg` chooses among.
    pub(crate) fn of_every_event(&self) -> impl Iterator<Item = &Handler> {
        self.events
            .iter()
            .filter(|handler| matches!(handler.events, Events::Every))
    }

    /// The methods marked `#[on]`.
    pub(crate) fn by_event(&self) -> impl Iterator<Item = &Handler> {
        self.events
            .iter()
            .filter(|handler| !matches!(handler.events, Events::Every))
    }

    /// The handlers that are not `async`.
    pub(crate) fn folds(&self) -> impl Iterator<Item = &Handler> {
        self.events
            .iter()
            .filter(|handler| handler.rows().is_some())
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

impl ToTokens for RowKey {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::One(part) => part.to_tokens(tokens),
            Self::Tuple(_, parts) => tokens.append_separated(parts, quote!(,)),
        }
    }
}

impl ToTokens for KeyPart {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::AggregateId(word) => word.to_tokens(tokens),
            Self::Expression(expression) => expression.to_tokens(tokens),
        }
    }
}
