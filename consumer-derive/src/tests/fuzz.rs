//! No input makes the macros panic: not random tokens, and not good input that went wrong.

use std::env;
use std::str::FromStr;

use proc_macro2::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// How many inputs a run tries, unless `FUZZ_CASES` says otherwise.
const CASES: u32 = 100_000;

/// Where the random numbers begin, unless `FUZZ_SEED` says otherwise: the same inputs every time, so
/// that a failure is seen again.
const SEED: u64 = 1;

/// Good input, which the mutations spoil.
const SEEDS: &[(&str, &str)] = &[
    (
        r#"name = "users", aggregates = ["User", crate::UserEvent], retries = 3, backoff = "1s..2m""#,
        "/// Doc.
        impl Users { async fn handle(&self, tx: &mut PgConnection, event: &PersistedEvent) -> Result<(), E> { Ok(()) } }",
    ),
    (
        r#"name = "users", start_from = "now", on_error = "park", batch_size = 10, batch_time = "1s", crate = ::c"#,
        r#"impl<'a> a::Users<'a, [u8; 3]> where Self: Sized {
            const X: u8 = { 3 };
            #[on] #[cfg(all())] pub async fn a(&self, cx: &Context, event: Envelope<'_, X>) -> Result<(), E> { self. }
            #[on("A", "B",)] async fn b(&self, event: &[PersistedEvent]) -> Result<(), E> {}
            #[on(other)] async fn c(&self, tx: &mut T, e: &PersistedEvent) -> impl Sized {}
            #[on(reset)] async fn d(&self) -> Result<(), E> {}
            #[cfg_attr(x, on)] #[consumer::on] fn e(self: Box<Self>, (a, b): (u8, u8), ...);
            mac! {} type T = u8;
        }"#,
    ),
    (
        r#"name = env!("NAME"), aggregates = [UserEvent], read_model = User, group = crate::GROUP"#,
        r"impl Users {
            #[on(UserEvent::Registered)] fn a(&self, user: &mut User, event: Envelope<'_, Registered>) {}
            #[on(UserEvent::Referred, key = event.by)] fn b(user: &mut User, event: Referred) {}
            #[on(UserEvent::Deleted)] fn c(user: &mut Option<User>) {}
            #[on(UserEvent::Moved)] async fn d(&self, tx: &mut PgConnection, events: &[Envelope<'_, Moved>]) -> Result<(), E> {}
            #[on(UserEvent::A, UserEvent::B)] fn e() {} #[on(UserEvent::A(a))] fn f() {}
        }",
    ),
    (
        r#"name = "users", segments = 8, version = 2, batch_size = 5 retries = 3"#,
        r#"impl Users {
            #![allow(dead_code)]
            #[cfg(a)] async fn handle(&self, tx: &mut PgConnection, event: &PersistedEvent) -> Result<(), E> {}
            #[cfg(not(a,))] #[cfg(b)] async fn handle(&self, cx: Context, #[cfg(b)] events: &mut [PersistedEvent]) -> Result<(), E> {}
            #[cfg(c)] #[on("A" "B")] async fn a(&self, tx: Transaction<'_, Sqlite>, pool: &PgPool) {}
            const HOOK: fn(&str) = log; async fn
        }"#,
    ),
    (
        r#"name = "users", database = Postgres, init = Users::<u8>::new, group = "g", handler_timeout = "3h""#,
        "#[consumer] pub(crate) struct Users<T = u8>(pub T) where T: Sized;",
    ),
    (
        r#"name = "users", database = any"#,
        "unsafe impl Handler<Sqlite> for Users { async fn handle() {} }",
    ),
    (
        "",
        r#"#[derive(Event)] #[event(aggregate = "User", version = 3, upcast(1 = A, 2 = b::c), crate = ::c)]
        struct UserRegistered { #[serde(default)] email: String }"#,
    ),
    (
        "",
        r#"#[event(aggregate = "User")] #[serde(tag = "t")]
        enum UserEvent { A(X), #[event(name = "B", version = 2, upcast(1 = Y))] B { b: u8 }, C, D(u8, u8) = 5 }"#,
    ),
    (
        r#"name = "users", read_model = crate::User, segments = 4"#,
        r#"impl Users {
            #[on] fn a(&self, event: Envelope<'_, A>) -> Result<Option<User>, E> { Ok(None) }
            #[on(key = event.a.b)] fn b(user: &mut User, event: B, cx: &Context) {}
            #[on("C", "D", key = (aggregate_id, e.f()),)] fn c(e: &PersistedEvent, r: &mut Option<User>) {}
            #[on(other, key = aggregate_id)] async fn d(&self, tx: &mut T, e: &PersistedEvent) -> Result<(), E> {}
            #[on(key = , key)] fn e(user: User, event: &[E]) {}
        }"#,
    ),
    (
        "",
        r#"#[derive(ReadModel)] #[read_model(table = "shop.users", crate = ::c)]
        struct User<'a> {
            #[read_model(key)] id: String, #[read_model(key, index)] r#type: i32,
            #[read_model(index, rename = "mail")] email: Option<Option<String>>,
            #[read_model(sql_type = "numeric(20, 2)")] total: Option<Decimal>,
            #[read_model(position)] as_of: i64, tags: Vec<[u8; 3]>,
        }"#,
    ),
];

/// Words that mean something to the macros, or to the parser.
const WORDS: &[&str] = &[
    "impl",
    "fn",
    "async",
    "self",
    "Self",
    "struct",
    "enum",
    "union",
    "for",
    "where",
    "mut",
    "on",
    "other",
    "reset",
    "name",
    "aggregates",
    "crate",
    "super",
    "consumer",
    "event",
    "any",
    "cfg",
    "cfg_attr",
    "handle",
    "handel",
    "dyn",
    "const",
    "unsafe",
    "pub",
    "r#type",
    "Context",
    "PersistedEvent",
    "Envelope",
    "Transaction",
    "_x",
    "version",
    "upcast",
    "read_model",
    "table",
    "key",
    "position",
    "aggregate_id",
    "Option",
];

const PUNCTUATION: &[char] = &[
    '#', '!', '=', ',', ';', ':', '&', '<', '>', '.', '-', '\'', '|', '*', '+', '?', '@', '$',
];

const LITERALS: &[&str] = &[
    "\"\"",
    "\" x\"",
    "\"users\"",
    "\"1s..\"",
    "0",
    "18446744073709551616",
    "1.5",
    "'c'",
    "b\"x\"",
    "1u8",
    "\"ü\"",
    "\"now\"",
    "\"9999999999999999999h\"",
    "\"1ü\"",
    "2147483647",
    "c\"x\"",
];

/// A token, or one side of a group.
#[derive(Clone, Debug)]
enum Piece {
    Token(TokenTree),
    Open(Delimiter),
    Close,
}

#[derive(Clone, Debug)]
enum Edit {
    Remove,
    Repeat,
    Swap,
    Insert(u8, u8),
    Replace(u8, u8),
    Truncate,
}

fn edits() -> impl Strategy<Value = Vec<(usize, Edit)>> {
    let edit = prop_oneof![
        Just(Edit::Remove),
        Just(Edit::Repeat),
        Just(Edit::Swap),
        (any::<u8>(), any::<u8>()).prop_map(|(kind, which)| Edit::Insert(kind, which)),
        (any::<u8>(), any::<u8>()).prop_map(|(kind, which)| Edit::Replace(kind, which)),
        Just(Edit::Truncate),
    ];
    prop::collection::vec((any::<usize>(), edit), 0..6)
}

fn random_pieces() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((any::<u8>(), any::<u8>()), 0..24)
}

fn piece(kind: u8, which: u8) -> Piece {
    let which = usize::from(which);
    match kind % 8 {
        0 | 1 => {
            let word = WORDS.get(which % WORDS.len()).unwrap();
            let ident = match word.strip_prefix("r#") {
                Some(raw) => Ident::new_raw(raw, Span::call_site()),
                None => Ident::new(word, Span::call_site()),
            };
            Piece::Token(ident.into())
        }
        2 | 3 => {
            let character = *PUNCTUATION.get(which % PUNCTUATION.len()).unwrap();
            let spacing = if which >= 128 {
                Spacing::Joint
            } else {
                Spacing::Alone
            };
            Piece::Token(Punct::new(character, spacing).into())
        }
        4 => {
            let text = LITERALS.get(which % LITERALS.len()).unwrap();
            Piece::Token(text.parse::<Literal>().unwrap().into())
        }
        5 | 6 => Piece::Open(match which % 4 {
            0 => Delimiter::Brace,
            1 => Delimiter::Bracket,
            2 => Delimiter::Parenthesis,
            _ => Delimiter::None,
        }),
        _ => Piece::Close,
    }
}

fn take_apart(tokens: TokenStream, pieces: &mut Vec<Piece>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                pieces.push(Piece::Open(group.delimiter()));
                take_apart(group.stream(), pieces);
                pieces.push(Piece::Close);
            }
            other => pieces.push(Piece::Token(other)),
        }
    }
}

/// Puts pieces together; every group is closed in the end, since rustc gives a macro no others.
fn put_together(pieces: Vec<Piece>) -> TokenStream {
    let mut open = vec![(Delimiter::None, TokenStream::new())];
    for piece in pieces {
        match piece {
            Piece::Token(token) => open.last_mut().unwrap().1.extend([token]),
            Piece::Open(delimiter) => open.push((delimiter, TokenStream::new())),
            Piece::Close => close(&mut open),
        }
    }
    while open.len() > 1 {
        close(&mut open);
    }
    open.pop().unwrap().1
}

fn close(open: &mut Vec<(Delimiter, TokenStream)>) {
    if open.len() > 1 {
        let (delimiter, inside) = open.pop().unwrap();
        let group = TokenTree::Group(Group::new(delimiter, inside));
        open.last_mut().unwrap().1.extend([group]);
    }
}

fn spoil(text: &str, edits: &[(usize, Edit)]) -> TokenStream {
    let mut pieces = Vec::new();
    take_apart(text.parse().unwrap(), &mut pieces);
    for (at, edit) in edits {
        if pieces.is_empty() {
            pieces.push(piece(0, 0));
        }
        let at = at % pieces.len();
        match edit {
            Edit::Remove => _ = pieces.remove(at),
            Edit::Repeat => pieces.insert(at, pieces.get(at).unwrap().clone()),
            Edit::Swap => {
                let other = (at + 1) % pieces.len();
                pieces.swap(at, other);
            }
            Edit::Insert(kind, which) => pieces.insert(at, piece(*kind, *which)),
            Edit::Replace(kind, which) => *pieces.get_mut(at).unwrap() = piece(*kind, *which),
            Edit::Truncate => pieces.truncate(at),
        }
    }
    put_together(pieces)
}

fn random(pieces: &[(u8, u8)]) -> TokenStream {
    put_together(
        pieces
            .iter()
            .map(|(kind, which)| piece(*kind, *which))
            .collect(),
    )
}

fn run(args: TokenStream, item: TokenStream) {
    crate::expand_consumer(args, item.clone());
    crate::event::derive_event(item.clone());
    crate::read_model::derive_read_model(item);
}

fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(otherwise)
}

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: setting("FUZZ_CASES", CASES) / 2,
        rng_seed: RngSeed::Fixed(setting("FUZZ_SEED", SEED)),
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn spoilt_input_makes_no_macro_panic() {
    let inputs = (0..SEEDS.len(), edits(), edits());
    runner()
        .run(&inputs, |(seed, args_edits, item_edits)| {
            let (args, item) = SEEDS.get(seed).unwrap();
            run(spoil(args, &args_edits), spoil(item, &item_edits));
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_tokens_make_no_macro_panic() {
    runner()
        .run(&(random_pieces(), random_pieces()), |(args, item)| {
            run(random(&args), random(&item));
            Ok(())
        })
        .unwrap();
}
