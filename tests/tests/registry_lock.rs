//! `assert_locked!`: a renamed consumer does not pass unseen.

use consumer::__private::check_lock;
use consumer::prelude::*;
use consumer::{assert_locked, consumers};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
enum UserEvent {
    Registered { email: String },
    Deleted,
}

struct Users;

#[consumer(name = "users", aggregates = [UserEvent, "Order"])]
impl Users {
    #[on]
    async fn user(&self, _event: UserEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on("OrderPlaced")]
    async fn placed(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct Audit;

#[consumer(name = "audit", version = 2)]
impl Audit {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[derive(ReadModel)]
#[read_model(table = "shop.balances")]
struct Balance {
    #[read_model(key)]
    account: String,
    #[read_model(sql_type = "numeric(20, 2)")]
    amount: Option<i64>,
    #[read_model(index)]
    owner: String,
    #[read_model(position)]
    as_of: i64,
}

struct Balances;

#[consumer(name = "balances", aggregates = ["Account"], read_model = Balance, ignore = ["Legacy"])]
impl Balances {
    #[on("Closed")]
    fn closed(balance: &mut Balance, _event: &PersistedEvent) {
        balance.amount = None;
    }
}

#[test]
fn consumers_match_the_lock_file() {
    assert_locked!("tests/registry_lock.lock");
    assert_locked!("tests/registry_lock.lock", consumers![crate]);
}

#[test]
fn a_renamed_consumer_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let frozen = include_str!("registry_lock.lock").replace("\naudit\n", "\naudit_log\n");
    std::fs::write(folder.path().join("consumers.lock"), frozen).unwrap();
    let error = check_lock(folder.path().to_str().unwrap(), "consumers.lock", None).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(
            "- audit_log\n-     version: 2\n-     scope: every aggregate\n-     events: every event\n\
             + audit\n+     version: 2\n+     scope: every aggregate\n+     events: every event\n"
        ),
        "{text}"
    );
    assert!(text.contains("CONSUMERS_LOCK=update cargo test"), "{text}");
}

#[test]
fn a_changed_version_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let frozen = include_str!("registry_lock.lock").replace("    version: 2\n", "");
    std::fs::write(folder.path().join("consumers.lock"), frozen).unwrap();
    let error = check_lock(folder.path().to_str().unwrap(), "consumers.lock", None).unwrap_err();
    assert!(
        error.to_string().contains("+ audit\n+     version: 2\n"),
        "{error}"
    );
}

#[test]
fn a_changed_column_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let frozen = include_str!("registry_lock.lock").replace("owner text indexed", "owner text");
    std::fs::write(folder.path().join("consumers.lock"), frozen).unwrap();
    let error = check_lock(folder.path().to_str().unwrap(), "consumers.lock", None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("-     columns: account text key, amount numeric(20, 2) null, owner text, as_of i64 position\n"), "{text}");
    assert!(text.contains("+     columns: account text key, amount numeric(20, 2) null, owner text indexed, as_of i64 position\n"), "{text}");
}

#[test]
fn a_missing_file_says_how_to_write_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = check_lock(folder.path().to_str().unwrap(), "consumers.lock", None).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "consumers.lock` does not exist: create it with `CONSUMERS_LOCK=update cargo test`"
        ),
        "{error}"
    );
}
