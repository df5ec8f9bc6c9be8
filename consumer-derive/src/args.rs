//! The arguments of `#[consumer(…)]`: keys, and the shapes of their values.

use proc_macro2::TokenStream;
use syn::ext::IdentExt;
use syn::parse::discouraged::Speculative;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Ident, LitInt, LitStr, Path, Token, Type, bracketed};

use crate::errors::Errors;
use crate::keys;
use crate::pairs::{
    begins_a_key, expect_equals, is_at_the_end, report_missing_comma, report_second, skip_comma,
    skip_to_comma,
};
use crate::suggest::{closest, listed};
use crate::unevaluated::unevaluated;

/// The keys as they were written.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) name: Slot<LitStr>,
    pub(crate) aggregates: Slot<Aggregates>,
    pub(crate) read_model: Slot<Path>,
    pub(crate) start_from: Slot<LitStr>,
    pub(crate) on_error: Slot<LitStr>,
    pub(crate) retries: Slot<LitInt>,
    pub(crate) backoff: Slot<LitStr>,
    pub(crate) batch_size: Slot<LitInt>,
    pub(crate) batch_time: Slot<LitStr>,
    pub(crate) handler_timeout: Slot<LitStr>,
    pub(crate) segments: Slot<LitInt>,
    pub(crate) version: Slot<LitInt>,
    pub(crate) group: Slot<LitStr>,
    pub(crate) formerly: Slot<Former>,
    pub(crate) database: Slot<Database>,
    pub(crate) init: Slot<Path>,
    pub(crate) ignore: Slot<EventTypes>,
    pub(crate) krate: Slot<Path>,
}

impl Args {
    /// Marks a key that others depend on as given, so that a misspelt one is not reported as missing too.
    fn note_as_written(&mut self, meant: &str, key: &Ident) {
        match meant {
            keys::NAME => _ = self.name.key.get_or_insert(key.clone()),
            keys::DATABASE => _ = self.database.key.get_or_insert(key.clone()),
            keys::READ_MODEL => _ = self.read_model.key.get_or_insert(key.clone()),
            _ => {}
        }
    }
}

/// One key: where it is written, and its value.
pub(crate) struct Slot<T> {
    key: Option<Ident>,
    value: Option<T>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            key: None,
            value: None,
        }
    }
}

impl<T> Slot<T> {
    /// The key, even if its value was refused.
    pub(crate) fn key(&self) -> Option<&Ident> {
        self.key.as_ref()
    }

    /// The value, unless it is missing or was refused.
    pub(crate) fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

/// `["User", OrderEvent]`
pub(crate) struct Aggregates(pub(crate) Vec<Aggregate>);

/// One member of `aggregates`.
#[derive(Clone)]
pub(crate) enum Aggregate {
    /// `"User"`
    Name(LitStr),
    /// `UserEvent`, a type that implements `Aggregate`
    Type(Path),
}

/// `["Legacy"]`
pub(crate) struct EventTypes(pub(crate) Vec<LitStr>);

/// The value of `formerly`.
pub(crate) enum Former {
    /// `none`
    None,
    /// `"users"`
    Name(LitStr),
}

/// The value of `database`.
pub(crate) enum Database {
    /// `any`
    Any,
    /// `Sqlite`
    One(Box<Type>),
}

/// Every key, with an example of its value.
const KEYS: &[(&str, &str)] = &[
    (keys::NAME, "\"user_read_model\""),
    (keys::AGGREGATES, "[\"User\"]"),
    (keys::READ_MODEL, "User"),
    (keys::START_FROM, "\"beginning\""),
    (keys::ON_ERROR, "\"stop\""),
    (keys::RETRIES, "5"),
    (keys::BACKOFF, "\"100ms..30s\""),
    (keys::BATCH_SIZE, "500"),
    (keys::BATCH_TIME, "\"1s\""),
    (keys::HANDLER_TIMEOUT, "\"30s\""),
    (keys::SEGMENTS, "8"),
    (keys::VERSION, "2"),
    (keys::GROUP, "\"projections\""),
    (keys::FORMERLY, "\"old_name\""),
    (keys::DATABASE, "Sqlite"),
    (keys::INIT, "UserReadModel::connect"),
    (keys::IGNORE, "[\"Legacy\"]"),
    (keys::CRATE, "::consumer"),
];

pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Args {
    let mut args = Args::default();
    let parser = |input: ParseStream<'_>| {
        while !input.is_empty() {
            parse_pair(&mut args, input, errors);
            skip_comma(input);
        }
        Ok(())
    };
    if let Err(error) = parser.parse2(tokens) {
        errors.at_span(error.span(), error);
    }
    args
}

fn parse_pair(args: &mut Args, input: ParseStream<'_>, errors: &mut Errors) {
    if let Ok(text) = input.fork().parse::<LitStr>() {
        skip_to_comma(input);
        errors.at(
            &text,
            "expected a key before this value, as in `name = \"user_read_model\"`",
        );
        args.name
            .key
            .get_or_insert(Ident::new(keys::NAME, text.span()));
        args.name.value.get_or_insert(text);
        return;
    }
    let Ok(key) = input.call(Ident::parse_any) else {
        let odd = skip_to_comma(input);
        errors.at(
            odd,
            "expected a key and its value, as in `name = \"user_read_model\"`",
        );
        return;
    };
    match key.to_string().as_str() {
        keys::NAME => fill(&mut args.name, key, input, errors),
        keys::AGGREGATES => fill(&mut args.aggregates, key, input, errors),
        keys::READ_MODEL => fill(&mut args.read_model, key, input, errors),
        keys::START_FROM => fill(&mut args.start_from, key, input, errors),
        keys::ON_ERROR => fill(&mut args.on_error, key, input, errors),
        keys::RETRIES => fill(&mut args.retries, key, input, errors),
        keys::BACKOFF => fill(&mut args.backoff, key, input, errors),
        keys::BATCH_SIZE => fill(&mut args.batch_size, key, input, errors),
        keys::BATCH_TIME => fill(&mut args.batch_time, key, input, errors),
        keys::HANDLER_TIMEOUT => fill(&mut args.handler_timeout, key, input, errors),
        keys::SEGMENTS => fill(&mut args.segments, key, input, errors),
        keys::VERSION => fill(&mut args.version, key, input, errors),
        keys::GROUP => fill(&mut args.group, key, input, errors),
        keys::FORMERLY => fill(&mut args.formerly, key, input, errors),
        keys::DATABASE => fill(&mut args.database, key, input, errors),
        keys::INIT => fill(&mut args.init, key, input, errors),
        keys::IGNORE => fill(&mut args.ignore, key, input, errors),
        keys::CRATE => fill(&mut args.krate, key, input, errors),
        _ => unknown(args, &key, input, errors),
    }
}

fn unknown(args: &mut Args, key: &Ident, input: ParseStream<'_>, errors: &mut Errors) {
    skip_to_comma(input);
    let keys: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
    let advice = match closest(&key.to_string(), &keys) {
        Some(meant) => {
            args.note_as_written(meant, key);
            format!("did you mean `{meant}`?")
        }
        None => format!("the keys are {}", listed(keys)),
    };
    errors.at(key, format!("`#[consumer]` has no key `{key}`: {advice}"));
}

/// Puts the value into its slot, unless the key was given before.
fn fill<T: Value>(slot: &mut Slot<T>, key: Ident, input: ParseStream<'_>, errors: &mut Errors) {
    let value = parse_value::<T>(&key, input, errors);
    if slot.value.is_some() {
        report_second(&key, errors);
        return;
    }
    slot.key = Some(key);
    slot.value = value;
}

fn parse_value<T: Value>(key: &Ident, input: ParseStream<'_>, errors: &mut Errors) -> Option<T> {
    let example = example(key);
    if expect_equals(key, input, errors).is_err() {
        skip_to_comma(input);
        errors.at(
            key,
            format!("`{key}` needs a value: write `{key} = {example}`"),
        );
        return None;
    }
    let ahead = input.fork();
    let parsed = T::read(&ahead, errors);
    if parsed.is_some() && begins_a_key(&ahead) {
        input.advance_to(&ahead);
        report_missing_comma(input, errors);
        return parsed;
    }
    let parsed = parsed.filter(|_| is_at_the_end(&ahead));
    let written = skip_to_comma(input);
    if parsed.is_none() {
        let what = T::WHAT;
        let message = match unevaluated(&written).filter(|_| T::IS_LITERAL) {
            Some(later) => format!(
                "`{key}` takes {what}, and this macro runs before {later}: write the value itself, as in `{key} = {example}`"
            ),
            None => format!("`{key}` takes {what}: write `{key} = {example}`"),
        };
        if written.is_empty() {
            errors.at(key, message);
        } else {
            errors.at(written, message);
        }
    }
    parsed
}

fn example(key: &Ident) -> &'static str {
    KEYS.iter()
        .find(|(known, _)| key == known)
        .map_or("…", |(_, example)| example)
}

/// A shape that a value can have.
trait Value: Sized {
    /// What the message calls it.
    const WHAT: &'static str;

    /// Whether it is a literal.
    const IS_LITERAL: bool = false;

    /// Reads the value; `None` if it is something else.
    fn read(input: ParseStream<'_>, errors: &mut Errors) -> Option<Self>;
}

impl Value for LitStr {
    const WHAT: &'static str = "a string";
    const IS_LITERAL: bool = true;

    fn read(input: ParseStream<'_>, _: &mut Errors) -> Option<Self> {
        input.parse().ok()
    }
}

impl Value for LitInt {
    const WHAT: &'static str = "a number";
    const IS_LITERAL: bool = true;

    fn read(input: ParseStream<'_>, _: &mut Errors) -> Option<Self> {
        input.parse().ok()
    }
}

impl Value for Path {
    const WHAT: &'static str = "a path";

    fn read(input: ParseStream<'_>, _: &mut Errors) -> Option<Self> {
        input.parse().ok()
    }
}

impl Value for Former {
    const WHAT: &'static str = "the name that the consumer had before, or `none`";

    fn read(input: ParseStream<'_>, _: &mut Errors) -> Option<Self> {
        if input.peek(LitStr) {
            return input.parse().ok().map(Self::Name);
        }
        let word: Ident = input.call(Ident::parse_any).ok()?;
        (word == keys::NONE).then_some(Self::None)
    }
}

impl Value for Database {
    const WHAT: &'static str = "a type, or `any`";

    fn read(input: ParseStream<'_>, _: &mut Errors) -> Option<Self> {
        let ty: Type = input.parse().ok()?;
        match &ty {
            Type::Path(path) if path.path.is_ident(keys::ANY) => Some(Self::Any),
            Type::Path(_) => Some(Self::One(Box::new(ty))),
            _ => None,
        }
    }
}

impl Value for Aggregates {
    const WHAT: &'static str = "a list of aggregate types";

    fn read(input: ParseStream<'_>, errors: &mut Errors) -> Option<Self> {
        let members = bracketed_members(input).ok()?;
        let members = split_members.parse2(members).ok()?;
        let known = members
            .into_iter()
            .filter_map(|member| read_aggregate(member, errors))
            .collect();
        Some(Self(known))
    }
}

impl Value for EventTypes {
    const WHAT: &'static str = "a list of event types";

    fn read(input: ParseStream<'_>, errors: &mut Errors) -> Option<Self> {
        let members = bracketed_members(input).ok()?;
        let members = split_members.parse2(members).ok()?;
        let known = members
            .into_iter()
            .filter_map(|member| read_event_type(member, errors))
            .collect();
        Some(Self(known))
    }
}

fn read_event_type(member: TokenStream, errors: &mut Errors) -> Option<LitStr> {
    let name = syn::parse2(member.clone()).ok();
    if name.is_none() && !member.is_empty() {
        errors.at(
            member,
            "expected an event type in quotes: write `ignore = [\"Legacy\"]`",
        );
    }
    name
}

fn bracketed_members(input: ParseStream<'_>) -> syn::Result<TokenStream> {
    let content;
    bracketed!(content in input);
    content.parse()
}

fn split_members(input: ParseStream<'_>) -> syn::Result<Punctuated<TokenStream, Token![,]>> {
    Punctuated::parse_terminated_with(input, |input| Ok(skip_to_comma(input)))
}

fn read_aggregate(member: TokenStream, errors: &mut Errors) -> Option<Aggregate> {
    let parser = |input: ParseStream<'_>| {
        let aggregate = if input.peek(LitStr) {
            input.parse().map(Aggregate::Name)
        } else {
            Path::parse(input).map(Aggregate::Type)
        }?;
        if input.peek(LitStr) || begins_a_key(input) {
            report_missing_comma(input, errors);
            skip_to_comma(input);
        }
        Ok(aggregate)
    };
    if let Ok(aggregate) = parser.parse2(member.clone()) {
        return Some(aggregate);
    }
    if !member.is_empty() {
        errors.at(
            member,
            "expected a string or the path of an `Aggregate` type: write `aggregates = [\"User\", OrderEvent]`",
        );
    }
    None
}
