//! Names of the prelude, of `std` and of generated code mean something else here.
#![no_implicit_prelude]
#![allow(dead_code, non_camel_case_types, non_upper_case_globals)]

mod std {}
mod core {}
mod serde {}
struct Result;
struct Option;
struct Box;
struct Vec;
struct String;
struct Send;
struct Sync;
struct Future;
struct Ok;
struct Err;
struct Some;
struct None;
struct Database;
struct Consumer;
struct Context;
struct Event;
struct Handled;
struct Settings;
struct Fold;
struct ReadModel;
struct Table;
struct Value;
struct Keys;
struct Variant;
struct EventEnum;
struct VariantsOf;
const variant: u8 = 0;
const row: u8 = 0;
const rows: u8 = 0;
const keys: u8 = 0;
const key: u8 = 0;
const columns: u8 = 0;
const values: u8 = 0;
const cx: u8 = 0;
const tx: u8 = 0;
const event: u8 = 0;
const events: u8 = 0;
const handled: u8 = 0;
const decoded: u8 = 0;
const given: u8 = 0;
const run: u8 = 0;
const kind: u8 = 0;
const length: u8 = 0;
const dependencies: u8 = 0;

#[derive(::consumer::Event, ::serde::Serialize, ::serde::Deserialize)]
#[event(aggregate = "User", version = 2, upcast(1 = Old))]
struct Registered {}

#[derive(::serde::Deserialize)]
struct Old {}

impl ::core::convert::From<Old> for Registered {
    fn from(_: Old) -> Self {
        Self {}
    }
}

#[derive(::consumer::Event, ::serde::Serialize, ::serde::Deserialize)]
#[event(aggregate = "User")]
enum UserEvent {
    A(Registered),
    #[event(version = 2, upcast(1 = old_b))]
    B {
        name: ::std::string::String,
    },
    C,
    #[event(version = 2, upcast(1 = Old))]
    D(::std::boxed::Box<Plain>),
}

#[derive(::serde::Serialize, ::serde::Deserialize)]
struct Plain {}

impl ::core::convert::From<Old> for Plain {
    fn from(_: Old) -> Self {
        Self {}
    }
}

fn old_b(_: ::serde_json::Value) -> ::core::result::Result<UserEvent, ::serde_json::Error> {
    ::core::result::Result::Ok(UserEvent::C)
}

#[derive(::core::default::Default)]
struct Every {
    _state: ::core::primitive::u8,
}

#[::consumer::consumer(
    name = "every",
    retries = 1,
    batch_time = "1s",
    group = "g",
    on_error = "skip"
)]
impl Every {
    async fn handle(
        &self,
        _: &::consumer::Context,
        _: &mut ::consumer::sqlx::SqliteConnection,
        _: &::consumer::PersistedEvent,
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }
}

struct ByEvent;

#[::consumer::consumer(name = "by_event", aggregates = [UserEvent, "Order"], init = ByEvent::make)]
impl ByEvent {
    fn make(
        _: &::consumer::Dependencies,
    ) -> ::core::result::Result<Self, ::consumer::HandlerError> {
        ::core::result::Result::Ok(Self)
    }

    #[on]
    async fn registered(
        &self,
        _: &[::consumer::Envelope<'_, Registered>],
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }

    #[on("B")]
    async fn b(
        &self,
        _: &::consumer::PersistedEvent,
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }

    #[on(other)]
    async fn other(
        &self,
        _: &[::consumer::PersistedEvent],
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }

    #[on(reset)]
    async fn reset(&self) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }
}

struct ByVariant;

#[::consumer::consumer(name = "by_variant", aggregates = [UserEvent])]
impl ByVariant {
    #[on(UserEvent::A)]
    async fn a(
        &self,
        _: &[::consumer::Envelope<'_, Registered>],
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }

    #[on(crate::UserEvent::B)]
    async fn b(&self, _: UserEvent) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }

    #[on(UserEvent::C)]
    async fn r#match(&self) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }

    #[cfg(any(test, not(test)))]
    #[on(UserEvent::D)]
    async fn d(
        &self,
        _: ::consumer::Envelope<'_, Plain>,
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }

    #[cfg(any())]
    #[on(UserEvent::D)]
    async fn d(&self) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }
}

struct Batch;

#[::consumer::consumer(name = "batch")]
impl Batch {
    async fn handle(
        &self,
        _: &mut ::consumer::sqlx::SqliteConnection,
        _: &[::consumer::PersistedEvent],
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }
}

#[::consumer::consumer(name = "by_hand", database = ::consumer::sqlx::Sqlite)]
struct ByHand;

impl ::consumer::Handler<::consumer::sqlx::Sqlite> for ByHand {
    async fn handle(
        &self,
        _: &::consumer::Context,
        _: &mut ::consumer::sqlx::SqliteConnection,
        _: &::consumer::PersistedEvent,
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }
}

#[derive(::consumer::ReadModel)]
#[read_model(table = "rows")]
struct Row {
    #[read_model(key)]
    id: ::std::string::String,
    #[read_model(key)]
    part: ::core::primitive::i64,
    #[read_model(index)]
    values: ::core::option::Option<::std::vec::Vec<::core::primitive::u8>>,
    #[read_model(sql_type = "text")]
    columns: ::core::primitive::u64,
    #[read_model(position)]
    position: ::core::primitive::i64,
}

struct Rows;

#[::consumer::consumer(name = "rows", aggregates = ["User"], read_model = Row)]
impl Rows {
    #[on(key = (aggregate_id, placed.record.global_position))]
    fn registered(
        changed: &mut Row,
        placed: ::consumer::Envelope<'_, Registered>,
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        changed.columns = placed.record.payload.len() as ::core::primitive::u64;
        ::core::result::Result::Ok(())
    }

    #[on(other, key = [(::std::string::String::new(), it.global_position)])]
    fn other(changed: &mut ::core::option::Option<Row>, it: &::consumer::PersistedEvent) {
        *changed = ::core::option::Option::None;
    }

    #[on(UserEvent::B, key = [(::std::string::String::new(), 1)])]
    fn variant(changed: &mut Row, _: UserEvent) {
        changed.columns = 1;
    }

    #[on("C")]
    async fn sql(
        &self,
        _: &mut ::consumer::sqlx::SqliteConnection,
        _: &::consumer::PersistedEvent,
    ) -> ::core::result::Result<(), ::consumer::HandlerError> {
        ::core::result::Result::Ok(())
    }
}

mod primitives {
    struct str;
    struct usize;
    struct bool;
    struct i32;
    struct u8;
    struct Primitive;

    #[::consumer::consumer(name = "primitive", aggregates = ["User"])]
    impl Primitive {
        #[on("A")]
        async fn a(
            &self,
            _: &[::consumer::PersistedEvent],
        ) -> ::core::result::Result<(), ::consumer::HandlerError> {
            ::core::result::Result::Ok(())
        }

        #[on(reset)]
        async fn reset(&self) -> ::core::result::Result<(), ::consumer::HandlerError> {
            ::core::result::Result::Ok(())
        }
    }

    #[derive(::consumer::Event)]
    #[event(aggregate = "User")]
    enum Primitives {
        Nothing,
    }
}

fn main() {}
