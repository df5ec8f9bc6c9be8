//! The item under `#[consumer(…)]`, parsed just far enough to find the handlers.
//!
//! Bodies stay opaque tokens, and so does everything that does not parse: an item that is still
//! being typed comes back whole, which keeps editors working.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::{ToTokens, TokenStreamExt};
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{
    Attribute, Expr, FnArg, Generics, Ident, ImplItem, ItemStruct, LitStr, Meta, Path, Signature,
    Token, Type, Visibility, parse_quote,
};

use crate::errors::Errors;
use crate::keys;
use crate::model::Cfgs;
use crate::pairs::{expect_equals, report_second};
use crate::suggest::closest;

/// The item under the attribute.
pub(crate) enum Item {
    /// An `impl` block.
    Impl(Box<ImplBlock>),
    /// A struct.
    Struct(Box<ItemStruct>),
    /// Anything else, or an item that does not parse.
    Other(TokenStream),
}

/// An `impl` block, split into its members.
pub(crate) struct ImplBlock {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) generics: Generics,
    /// The trait of `impl Trait for Type`.
    pub(crate) implemented: Option<TokenStream>,
    pub(crate) self_type: Type,
    pub(crate) members: Vec<Member>,
    header: TokenStream,
    braces: Group,
    /// `#![…]` and `//! …` before the first member.
    inner_attributes: TokenStream,
}

/// A member of an `impl` block.
pub(crate) enum Member {
    /// A function with a signature that parses.
    Function(Box<Function>),
    /// Anything else.
    Opaque(TokenStream),
}

/// A function of an `impl` block.
pub(crate) struct Function {
    pub(crate) attributes: Vec<Attribute>,
    /// Its `#[on]` attributes, which the output omits.
    pub(crate) on: Vec<On>,
    pub(crate) signature: Signature,
    visibility: Visibility,
    body: TokenStream,
}

/// One `#[on…]` attribute.
pub(crate) struct On {
    pub(crate) attribute: Attribute,
    /// `None` when the argument was refused.
    pub(crate) events: Option<OnEvents>,
    /// The rows of the read model that the event is about.
    pub(crate) key: Option<OnKey>,
}

/// `key = event.payload.referrer`
pub(crate) struct OnKey {
    pub(crate) word: Ident,
    pub(crate) rows: Expr,
}

/// The argument of `#[on…]`.
pub(crate) enum OnEvents {
    /// `#[on]`: the type of the parameter names the event.
    Typed,
    /// `#[on(UserEvent::Registered)]`
    Variant(Path),
    /// `#[on("UserRegistered", "UserImported")]`
    Named(Vec<LitStr>),
    /// `#[on(other)]`
    Other,
    /// `#[on(reset)]`
    Reset,
}

impl Item {
    /// The outer attributes, as far as they parse.
    pub(crate) fn attributes(&self) -> &[Attribute] {
        match self {
            Self::Impl(block) => &block.attributes,
            Self::Struct(item) => &item.attrs,
            Self::Other(_) => &[],
        }
    }
}

impl ImplBlock {
    pub(crate) fn functions(&self) -> impl Iterator<Item = &Function> {
        self.members.iter().filter_map(|member| match member {
            Member::Function(function) => Some(&**function),
            Member::Opaque(_) => None,
        })
    }

    /// A function that is still being typed: neither it nor the members next to it, which may be
    /// pieces of it, parse as members of a block.
    pub(crate) fn unfinished_function(&self) -> Option<TokenStream> {
        self.members
            .split(|member| matches!(member, Member::Function(_)))
            .map(|pieces| {
                let mut run = TokenStream::new();
                run.append_all(pieces);
                run
            })
            .find(|run| has_a_function(run) && parse_items.parse2(run.clone()).is_err())
    }

    /// Drops a second `handle` under the same `cfg`, which the compiler would report again.
    pub(crate) fn keep_one_handle(&mut self) {
        let mut kept: Vec<Cfgs> = Vec::new();
        self.members.retain(|member| {
            let Member::Function(function) = member else {
                return true;
            };
            if !function.is_handle() {
                return true;
            }
            let cfgs = function.cfgs();
            let is_first = !kept.contains(&cfgs);
            kept.push(cfgs);
            is_first
        });
    }
}

fn parse_items(input: ParseStream<'_>) -> syn::Result<()> {
    while !input.is_empty() {
        input.parse::<ImplItem>()?;
    }
    Ok(())
}

fn has_a_function(tokens: &TokenStream) -> bool {
    tokens
        .clone()
        .into_iter()
        .any(|token| matches!(token, TokenTree::Ident(word) if word == "fn"))
}

pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Item {
    let parsed = (|input: ParseStream<'_>| parse_item(input, errors)).parse2(tokens.clone());
    parsed.unwrap_or(Item::Other(tokens))
}

fn parse_item(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Item> {
    let ahead = input.fork();
    ahead.call(Attribute::parse_outer)?;
    if ahead.peek(Token![impl]) || ahead.peek(Token![unsafe]) && ahead.peek2(Token![impl]) {
        return parse_impl(input, errors).map(|block| Item::Impl(Box::new(block)));
    }
    input.parse().map(|item| Item::Struct(Box::new(item)))
}

fn parse_impl(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<ImplBlock> {
    let attributes = input.call(Attribute::parse_outer)?;
    let header_start = input.fork();
    input.parse::<Option<Token![unsafe]>>()?;
    input.parse::<Token![impl]>()?;
    let mut generics: Generics = input.parse()?;
    let mut self_type: Type = input.parse()?;
    let mut implemented = None;
    if input.parse::<Option<Token![for]>>()?.is_some() {
        implemented = Some(self_type.to_token_stream());
        self_type = input.parse()?;
    }
    generics.where_clause = input.parse()?;
    let braces = braces(input.parse()?).ok_or_else(|| input.error("expected `{`"))?;
    let (inner_attributes, members) = split_inner_attributes(braces.stream());
    Ok(ImplBlock {
        attributes,
        generics,
        implemented,
        self_type,
        members: parse_members(members, errors),
        header: until_last(header_start.parse()?),
        braces,
        inner_attributes,
    })
}

/// Separates leading `#![…]` from the members, so that it does not become part of the first.
fn split_inner_attributes(tokens: TokenStream) -> (TokenStream, TokenStream) {
    let mut inner = TokenStream::new();
    let mut rest = tokens.into_iter();
    loop {
        let mut ahead = rest.clone();
        match (ahead.next(), ahead.next(), ahead.next()) {
            (
                Some(TokenTree::Punct(hash)),
                Some(TokenTree::Punct(bang)),
                Some(TokenTree::Group(body)),
            ) if hash.as_char() == '#'
                && bang.as_char() == '!'
                && body.delimiter() == Delimiter::Bracket =>
            {
                inner.extend([
                    TokenTree::Punct(hash),
                    TokenTree::Punct(bang),
                    TokenTree::Group(body),
                ]);
                rest = ahead;
            }
            _ => return (inner, rest.collect()),
        }
    }
}

/// The group in braces, even inside a `macro_rules!` fragment.
fn braces(token: TokenTree) -> Option<Group> {
    match token {
        TokenTree::Group(group) => match group.delimiter() {
            Delimiter::Brace => Some(group),
            Delimiter::None => {
                let mut inside = group.stream().into_iter();
                let only = inside.next()?;
                inside.next().is_none().then(|| braces(only)).flatten()
            }
            _ => None,
        },
        _ => None,
    }
}

/// All but the last token, which is the group in braces.
fn until_last(tokens: TokenStream) -> TokenStream {
    let mut tokens: Vec<TokenTree> = tokens.into_iter().collect();
    tokens.pop();
    tokens.into_iter().collect()
}

fn parse_members(tokens: TokenStream, errors: &mut Errors) -> Vec<Member> {
    let mut members = Vec::new();
    let mut member = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let ends = is_the_end_of_a_member(&token) && !tokens.peek().is_some_and(ends_an_argument);
        member.push(token);
        if ends {
            members.push(parse_member(std::mem::take(&mut member), errors));
        }
    }
    if !member.is_empty() {
        members.push(Member::Opaque(member.into_iter().collect()));
    }
    members
}

fn is_the_end_of_a_member(token: &TokenTree) -> bool {
    match token {
        TokenTree::Punct(punct) => punct.as_char() == ';',
        other => braces(other.clone()).is_some(),
    }
}

/// Whether braces before this token are a const argument, as in `Buffer<{ 1 + 1 }>`.
fn ends_an_argument(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if [',', '>'].contains(&punct.as_char()))
}

fn parse_member(mut tokens: Vec<TokenTree>, errors: &mut Errors) -> Member {
    let whole: TokenStream = tokens.iter().cloned().collect();
    let body = tokens.pop().into_token_stream();
    let head: TokenStream = tokens.into_iter().collect();
    let parser = |input: ParseStream<'_>| {
        Ok((
            input.call(Attribute::parse_outer)?,
            input.parse::<Visibility>()?,
            input.parse::<Signature>()?,
        ))
    };
    match parser.parse2(head) {
        Ok((attributes, visibility, mut signature)) => {
            let (on, attributes) = take_helpers(attributes, errors);
            for key in on.iter().filter_map(|on| on.key.as_ref()) {
                mark_as_used(&mut signature, key);
            }
            Member::Function(Box::new(Function {
                attributes,
                on,
                signature,
                visibility,
                body,
            }))
        }
        Err(_) => Member::Opaque(whole),
    }
}

/// A parameter that only the key mentions is not unused.
fn mark_as_used(signature: &mut Signature, key: &OnKey) {
    let mentioned = words(key.rows.to_token_stream());
    for input in &mut signature.inputs {
        let FnArg::Typed(typed) = input else {
            continue;
        };
        let names = words(typed.pat.to_token_stream());
        if names.iter().any(|name| mentioned.contains(name)) {
            typed.attrs.push(parse_quote!(#[allow(unused_variables)]));
        }
    }
}

/// The identifiers among the tokens.
fn words(tokens: TokenStream) -> Vec<Ident> {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Ident(word) => vec![word],
            TokenTree::Group(group) => words(group.stream()),
            _ => Vec::new(),
        })
        .collect()
}

/// Separates `#[on]` attributes, including malformed ones, from the others.
fn take_helpers(attributes: Vec<Attribute>, errors: &mut Errors) -> (Vec<On>, Vec<Attribute>) {
    let mut on = Vec::new();
    let mut others = Vec::new();
    for attribute in attributes {
        if attribute.path().is_ident(keys::ON) {
            let (events, key) = parse_on(&attribute, errors);
            on.push(On {
                attribute,
                events,
                key,
            });
        } else if is_qualified_on(&attribute) {
            errors.at(
                attribute.path(),
                "`#[on]` cannot be written with a path: write `#[on]`",
            );
            on.push(On {
                attribute,
                events: None,
                key: None,
            });
        } else if hides_on(&attribute) {
            errors.at(
                &attribute,
                "`#[on]` cannot be inside `cfg_attr`: write `#[cfg(…)]` and `#[on]` as two attributes of the method",
            );
            on.push(On {
                attribute,
                events: None,
                key: None,
            });
        } else {
            others.push(attribute);
        }
    }
    (on, others)
}

/// Whether this is `#[consumer]` once more.
pub(crate) fn is_consumer(attribute: &Attribute) -> bool {
    let segments = &attribute.path().segments;
    segments
        .last()
        .is_some_and(|last| last.ident == keys::CONSUMER)
}

fn is_qualified_on(attribute: &Attribute) -> bool {
    let segments = &attribute.path().segments;
    segments.len() > 1
        && segments.last().is_some_and(|last| last.ident == keys::ON)
        && segments.first().is_some_and(|first| {
            [keys::CONSUMER, "crate", "self"]
                .iter()
                .any(|own| first.ident == own)
        })
}

/// Whether `#[cfg_attr(…, on)]` hides a handler.
fn hides_on(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    if !attribute.path().is_ident(keys::CFG_ATTR) {
        return false;
    }
    let mut begins = false;
    for token in list.tokens.clone() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ',' => begins = true,
            TokenTree::Ident(word) if begins && word == keys::ON => return true,
            _ => begins = false,
        }
    }
    false
}

const ON_FORMS: &str = "write `#[on]` and take a decoded event, `#[on(UserEvent::Registered)]`, `#[on(\"UserRegistered\")]`, `#[on(other)]` or `#[on(reset)]`";

/// An example of `key`, which messages show.
const KEY_FORM: &str = "#[on(key = event.payload.user_id)]";

fn parse_on(attribute: &Attribute, errors: &mut Errors) -> (Option<OnEvents>, Option<OnKey>) {
    let list = match &attribute.meta {
        Meta::Path(_) => return (Some(OnEvents::Typed), None),
        Meta::NameValue(pair) => {
            errors.at(pair, format!("`#[on]` does not take `=`: {ON_FORMS}"));
            return (None, None);
        }
        Meta::List(list) => list,
    };
    if list.tokens.is_empty() {
        errors.at(
            list,
            format!("`#[on()]` does not name an event: {ON_FORMS}"),
        );
        return (None, None);
    }
    let (events, key) = split_key(&list.tokens);
    match key {
        None => (parse_on_list(&events, errors), None),
        Some((word, value)) => {
            let (key, rest) = parse_key(word, value, errors);
            let events: TokenStream = events.into_iter().chain(rest).collect();
            if key.is_none() {
                return (None, None);
            }
            if events.is_empty() {
                return (Some(OnEvents::Typed), key);
            }
            (parse_on_list(&events, errors), key)
        }
    }
}

/// Separates `key = …` from what is before it.
fn split_key(tokens: &TokenStream) -> (TokenStream, Option<(Ident, TokenStream)>) {
    let mut before = TokenStream::new();
    let mut rest = tokens.clone().into_iter();
    let mut begins = true;
    while let Some(token) = rest.next() {
        if let TokenTree::Ident(word) = &token
            && begins
            && word == keys::KEY
        {
            return (before, Some((word.clone(), rest.collect())));
        }
        begins = matches!(&token, TokenTree::Punct(comma) if comma.as_char() == ',');
        before.extend([token]);
    }
    (before, None)
}

/// The key, unless it is not an expression, and the tokens after it.
fn parse_key(word: Ident, value: TokenStream, errors: &mut Errors) -> (Option<OnKey>, TokenStream) {
    let parser = |input: ParseStream<'_>| {
        expect_equals(&word, input, errors)?;
        let rows: Expr = input.parse()?;
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
        Ok((rows, input.parse::<TokenStream>()?))
    };
    match parser.parse2(value.clone()) {
        Ok((rows, rest)) => {
            if let (_, Some((second, _))) = split_key(&rest) {
                report_second(&second, errors);
                return (None, rest);
            }
            (Some(OnKey { word, rows }), rest)
        }
        Err(_) => {
            let message = format!(
                "`key` takes an expression over the event, or `aggregate_id`: write `{KEY_FORM}`"
            );
            let mut written = value.into_iter();
            written.next();
            let written: TokenStream = written.collect();
            if written.is_empty() {
                errors.at(word, message);
            } else {
                errors.at(written, message);
            }
            (None, TokenStream::new())
        }
    }
}

fn parse_on_list(tokens: &TokenStream, errors: &mut Errors) -> Option<OnEvents> {
    let names = |input: ParseStream<'_>| {
        Punctuated::<LitStr, Token![,]>::parse_terminated(input)
            .map(|names| names.into_iter().collect())
    };
    if let Ok(names) = names.parse2(tokens.clone()) {
        return Some(OnEvents::Named(names));
    }
    if let Some((path, rest)) = parse_variant(tokens) {
        return only_variant(path, rest, errors);
    }
    let word = |input: ParseStream<'_>| {
        let word: Ident = input.parse()?;
        input.parse::<Option<Token![,]>>()?;
        Ok(word.to_string())
    };
    let word = word.parse2(tokens.clone());
    let advice = match word.as_deref() {
        Ok(keys::OTHER) => return Some(OnEvents::Other),
        Ok(keys::RESET) => return Some(OnEvents::Reset),
        Ok(word) => match closest(word, &[keys::OTHER, keys::RESET, keys::KEY]) {
            Some(keys::KEY) => format!("did you mean `{KEY_FORM}`?"),
            Some(meant) => format!("did you mean `#[on({meant})]`?"),
            None => {
                format!(
                    "write `#[on(\"{word}\")]`, `#[on]` and the parameter `event: {word}`, or, for a variant, its path with the enum, as in `#[on(UserEvent::{word})]`"
                )
            }
        },
        Err(_) => ON_FORMS.to_owned(),
    };
    errors.at(tokens, format!("`#[on(…)]` does not take this: {advice}"));
    None
}

/// A path of several words, which is that of a variant, and the tokens after it.
fn parse_variant(tokens: &TokenStream) -> Option<(Path, TokenStream)> {
    let parser = |input: ParseStream<'_>| {
        let path = input.call(Path::parse_mod_style)?;
        input.parse::<Option<Token![,]>>()?;
        Ok((path, input.parse::<TokenStream>()?))
    };
    let parsed = parser.parse2(tokens.clone()).ok();
    parsed.filter(|(path, _)| path.segments.len() > 1)
}

/// The variant, unless something follows it.
fn only_variant(path: Path, rest: TokenStream, errors: &mut Errors) -> Option<OnEvents> {
    let Some(next) = rest.clone().into_iter().next() else {
        return Some(OnEvents::Variant(path));
    };
    let written = path.to_token_stream().to_string().replace(' ', "");
    let message = if matches!(next, TokenTree::Group(_)) {
        format!(
            "`#[on(…)]` takes the path of a variant alone: write `#[on({written})]`, and take its content as a parameter"
        )
    } else {
        format!(
            "`#[on(…)]` takes one variant: write `#[on({written})]` here, and another method for what follows"
        )
    };
    errors.at(rest, message);
    None
}

impl Function {
    /// Whether it handles every event.
    pub(crate) fn is_handle(&self) -> bool {
        self.on.is_empty() && self.signature.ident == keys::HANDLE
    }

    /// The `cfg` attributes, which every mention of the function repeats.
    pub(crate) fn cfgs(&self) -> Cfgs {
        let cfgs = self
            .attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident(keys::CFG));
        Cfgs(cfgs.cloned().collect())
    }
}

impl ToTokens for Item {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::Impl(block) => block.to_tokens(tokens),
            Self::Struct(item) => item.to_tokens(tokens),
            Self::Other(other) => other.to_tokens(tokens),
        }
    }
}

impl ToTokens for ImplBlock {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.append_all(&self.attributes);
        self.header.to_tokens(tokens);
        let mut members = self.inner_attributes.clone();
        members.append_all(&self.members);
        let mut braces = Group::new(Delimiter::Brace, members);
        braces.set_span(self.braces.span());
        braces.to_tokens(tokens);
    }
}

impl ToTokens for Member {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::Function(function) => function.to_tokens(tokens),
            Self::Opaque(other) => other.to_tokens(tokens),
        }
    }
}

impl ToTokens for Function {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.append_all(&self.attributes);
        self.visibility.to_tokens(tokens);
        self.signature.to_tokens(tokens);
        self.body.to_tokens(tokens);
    }
}
