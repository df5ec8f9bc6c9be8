//! What is generated, as code that one can read. `UPDATE_SNAPSHOTS=1 cargo test -p consumer-derive`
//! writes the files anew.

use std::path::Path;
use std::{env, fs};

use proc_macro2::TokenStream;

fn compare(name: &str, generated: &TokenStream) {
    let text = render(generated);
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/tests/snapshots")
        .join(format!("{name}.rs.txt"));
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        expected == text,
        "{} differs; if this is meant, set UPDATE_SNAPSHOTS=1:\n{text}",
        file.display()
    );
}

/// Formatted, where the code is whole; token by token while it is being typed.
fn render(tokens: &TokenStream) -> String {
    match syn::parse2(tokens.clone()) {
        Ok(file) => prettyplease::unparse(&file),
        Err(_) => format!("{tokens}\n"),
    }
}

fn consumer(name: &str, args: &str, item: &str) {
    let generated = crate::expand_consumer(args.parse().unwrap(), item.parse().unwrap());
    compare(name, &generated);
}

fn event(name: &str, item: &str) {
    compare(name, &crate::event::derive_event(item.parse().unwrap()));
}

fn row(name: &str, item: &str) {
    compare(
        name,
        &crate::read_model::derive_read_model(item.parse().unwrap()),
    );
}

#[test]
fn a_consumer_that_was_renamed() {
    consumer(
        "renamed",
        r#"name = "accounts", formerly = "users""#,
        "impl Accounts {
            async fn handle(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
                Ok(())
            }
        }",
    );
}

#[test]
fn a_handler_of_every_event() {
    consumer(
        "handle",
        r#"name = "users", aggregates = ["User"], batch_size = 100"#,
        "impl Users {
            /// Documented.
            #[tracing::instrument]
            async fn handle(&self, tx: &mut PgConnection, event: &PersistedEvent) -> Result<(), sqlx::Error> {
                insert(tx, event).await
            }
        }",
    );
}

#[test]
fn a_handler_of_whole_batches_for_every_database() {
    consumer(
        "whole_batch",
        r#"name = "users", init = Users::connect"#,
        "impl Users {
            async fn handle(&self, cx: &Context, events: &[PersistedEvent]) -> Result<()> { publish(events).await }
        }",
    );
}

#[test]
fn handlers_by_event() {
    consumer(
        "by_event",
        r#"name = "users", aggregates = [UserEvent, "Order"]"#,
        r#"impl Users {
            #[on]
            async fn registered(&self, tx: &mut PgConnection, event: Envelope<'_, UserRegistered>) -> Result<(), Error> { Ok(()) }
            #[cfg(feature = "imports")]
            #[on("UserImported", "UserMigrated")]
            async fn imported(&self, event: &PersistedEvent) -> Result<(), Error> { Ok(()) }
            #[on]
            async fn renamed(&self, events: &[Envelope<'_, UserRenamed>]) -> Result<(), Error> { Ok(()) }
            #[on(other)]
            async fn rest(&self, event: &PersistedEvent) -> Result<(), Error> { Ok(()) }
            #[on(reset)]
            async fn empty(&self, tx: &mut PgConnection) -> Result<(), Error> { Ok(()) }
            fn helper(&self) {}
        }"#,
    );
}

#[test]
fn handlers_of_variants() {
    consumer(
        "by_variant",
        r#"name = "orders", aggregates = [OrderEvent]"#,
        r#"impl Orders {
            #[on(OrderEvent::Paid)]
            async fn paid(&self, tx: &mut PgConnection, events: &[Envelope<'_, Paid>]) -> Result<(), Error> { Ok(()) }
            #[cfg(feature = "names")]
            #[on(crate::OrderEvent::Renamed)]
            async fn renamed(&self, event: OrderEvent) -> Result<(), Error> { Ok(()) }
            #[on(OrderEvent::Cancelled)]
            async fn cancelled(&self) -> Result<(), Error> { Ok(()) }
        }"#,
    );
}

#[test]
fn handlers_of_variants_of_a_read_model() {
    consumer(
        "read_model_by_variant",
        r#"name = "orders", read_model = Order"#,
        r"impl Orders {
            #[on(OrderEvent::Paid, key = event.order)]
            fn paid(order: &mut Order, event: Paid) {}
            #[on(OrderEvent::Cancelled)]
            fn cancelled(order: &mut Option<Order>) { *order = None; }
        }",
    );
}

#[test]
fn handlers_of_a_read_model() {
    consumer(
        "read_model",
        r#"name = "users", aggregates = [UserEvent], read_model = User"#,
        r#"impl Users {
            #[on]
            fn registered(&self, event: Envelope<'_, Registered>) -> User { User::new(event) }
            #[cfg(feature = "referrals")]
            #[on(key = event.referrer)]
            fn referred(user: &mut User, event: Registered) { user.referrals += 1; }
            #[on("Deleted", key = (aggregate_id, event.global_position.to_string()))]
            fn deleted(user: &mut Option<User>, event: &PersistedEvent, cx: &Context) -> Result<(), Error> { Ok(()) }
        }"#,
    );
}

#[test]
fn handlers_of_a_read_model_beside_sql() {
    consumer(
        "read_model_and_sql",
        r#"name = "users", read_model = User"#,
        r"impl Users {
            #[on]
            async fn renamed(&self, tx: &mut PgConnection, event: Renamed) -> Result<(), Error> { Ok(()) }
            #[on(other)]
            fn other(user: &mut Option<User>, _: &PersistedEvent) {}
            #[on(reset)]
            async fn empty(&self, tx: &mut PgConnection) -> Result<(), Error> { Ok(()) }
        }",
    );
}

#[test]
fn a_row() {
    row(
        "row",
        r#"#[read_model(table = "shop.users")]
        struct User {
            #[read_model(key)] id: String,
            #[read_model(index, rename = "mail")] email: Option<String>,
            #[read_model(sql_type = "numeric(20, 2)")] balance: Option<Decimal>,
            #[read_model(position)] as_of: i64,
        }"#,
    );
}

#[test]
fn a_row_with_a_key_of_several_parts() {
    row(
        "row_with_two_keys",
        r#"#[read_model(table = "users", crate = ::c)]
        struct User { #[read_model(key)] tenant: Uuid, #[read_model(key)] id: i64, note: String }"#,
    );
}

#[test]
fn a_row_with_a_mistake_leaves_a_stub() {
    row(
        "row_with_a_mistake",
        r#"#[read_model(table = "users")]
        struct User { #[read_model(key)] id: Uuid, tags: Vec<String> }"#,
    );
}

#[test]
fn a_struct_that_implements_handler() {
    consumer(
        "struct",
        r#"name = "users", database = Sqlite"#,
        "pub struct Users;",
    );
}

#[test]
fn an_event_struct() {
    event(
        "event_struct",
        r#"#[event(aggregate = "User", version = 3, upcast(1 = V1, 2 = V2))]
        struct UserRegistered { email: String }"#,
    );
}

#[test]
fn an_event_whose_versions_are_read_by_functions() {
    event(
        "event_by_functions",
        r#"#[event(aggregate = "User")]
        enum UserEvent {
            #[event(version = 3, upcast(1 = V1, 2 = upcasts::registered))]
            Registered(Box<Content>),
        }"#,
    );
}

#[test]
fn an_event_struct_without_fields() {
    event(
        "event_unit_struct",
        r#"#[event(aggregate = "User", version = 2)] struct UserDeleted;"#,
    );
}

#[test]
fn an_event_enum() {
    event(
        "event_enum",
        r#"#[event(aggregate = "User")]
        enum UserEvent {
            Registered(UserRegistered),
            #[event(name = "UserRenamed", version = 2, upcast(1 = RenamedV1))]
            Renamed { name: String },
            Deleted,
        }"#,
    );
}

#[test]
fn a_body_in_the_middle_of_a_word_is_given_back() {
    consumer(
        "typing_a_body",
        r#"name = "users""#,
        "impl Users {
            async fn handle(&self, event: &PersistedEvent) -> Result<(), Error> { self. }
        }",
    );
}

#[test]
fn an_argument_without_its_type_is_given_back() {
    consumer(
        "typing_an_argument",
        r#"name = "users""#,
        "impl Users {
            async fn handle(&self, tx: &mut ) -> Result<(), Error> { Ok(()) }
            fn helper(&self) {}
        }",
    );
}

#[test]
fn a_call_that_is_not_closed_is_given_back() {
    consumer(
        "typing_a_call",
        r#"name = "users""#,
        "impl Users {
            async fn handle(&self, event: &PersistedEvent) -> Result<(), Error> { self.insert(event, ) . }
        }",
    );
}

#[test]
fn a_key_that_is_being_typed_keeps_the_block() {
    consumer(
        "typing_a_key",
        r#"name = "users", aggr"#,
        "impl Users {
            #[on]
            async fn registered(&self, event: UserRegistered) -> Result<(), Error> { Ok(()) }
        }",
    );
}

#[test]
fn a_function_that_is_being_typed_is_given_back() {
    consumer(
        "typing_a_function",
        r#"name = "users""#,
        "impl Users {
            async fn handle(&self, event: &PersistedEvent) -> Result<(), Error> { Ok(()) }
            #[on(
            )]
            async fn
        }",
    );
}

#[test]
fn a_half_typed_struct_gets_the_message_of_the_compiler_alone() {
    consumer(
        "typing_a_struct",
        r#"name = "users", database = Sqlite"#,
        "pub struct Users { na }",
    );
}

#[test]
fn a_block_that_shows_no_database_where_cfg_says_so() {
    consumer(
        "under_cfg",
        r#"name = "users""#,
        r#"impl Users {
            #![allow(dead_code)]
            #[cfg(feature = "sql")]
            async fn handle(&self, tx: &mut PgConnection, event: &PersistedEvent) -> Result<(), Error> { Ok(()) }
            #[cfg(not(feature = "sql"))]
            async fn handle(&self, event: &PersistedEvent) -> Result<(), Error> { Ok(()) }
        }"#,
    );
}
