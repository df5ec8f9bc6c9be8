//! All problems with the consumers of a program, reported at once at start-up.

use consumer::prelude::*;
use consumer::sqlx::Sqlite;
use consumer::{NameError, Problem, Registry, Selection, check_name};

struct One;

#[consumer(name = "same")]
impl One {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct Two;

#[consumer(name = "same")]
impl Two {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    name: String,
}

#[derive(ReadModel)]
#[read_model(table = "users")]
struct Customer {
    #[read_model(key)]
    id: String,
    since: i64,
}

struct Users;

#[consumer(name = "users", group = "fine", read_model = User)]
impl Users {
    #[on("Registered")]
    fn registered(event: &PersistedEvent) -> User {
        User {
            id: event.aggregate_id.clone(),
            name: String::new(),
        }
    }
}

/// The next version has its own table, `users_v2`.
struct UsersAgain;

#[consumer(name = "users", group = "fine", read_model = User, version = 2)]
impl UsersAgain {
    #[on("Registered")]
    fn registered(user: &mut User, _event: &PersistedEvent) {
        user.name.clear();
    }
}

struct Customers;

#[consumer(name = "customers", read_model = Customer)]
impl Customers {
    #[on("Registered")]
    fn registered(customer: &mut Customer, event: &PersistedEvent) {
        customer.since = event.global_position;
    }
}

#[derive(Debug)]
struct Broker;
#[derive(Debug)]
struct Mailer;

struct Publisher;

impl Publisher {
    fn connect(dependencies: &Dependencies) -> Result<Self, HandlerError> {
        let _: &Broker = dependencies.get()?;
        Ok(Self)
    }
}

#[consumer(name = "publisher", init = Publisher::connect, group = "fine")]
impl Publisher {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct Notifier;

fn notifier(dependencies: &Dependencies) -> Result<Notifier, consumer::MissingDependency> {
    dependencies.get::<Mailer>().map(|_| Notifier)
}

#[consumer(name = "notifier", init = notifier, group = "fine")]
impl Notifier {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

struct Broken;

#[consumer(name = "broken", init = broken)]
impl Broken {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn broken(_: &Dependencies) -> anyhow::Result<Broken> {
    anyhow::bail!("no route to host")
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = Registry::<Sqlite>::discover().unwrap_err();
    assert_eq!(error.problems().len(), 5);
    let text = error.to_string();
    println!("{text}");
    for part in [
        "5 problems with the consumers:",
        "`same` is declared 2 times",
        "registry_problems.rs:9:1 (registry_problems) and ",
        "registry_problems.rs:18:1 (registry_problems)",
        "`publisher`, declared at ",
        "no `registry_problems::Broker` was provided: add one with `Dependencies::with`",
        "no `registry_problems::Mailer` was provided",
        "the `init` of `broken`, declared at ",
        "failed: no route to host",
        "the table `users` belongs to one consumer, but it is the read model of `customers`, declared at ",
        "and of `users`, declared at ",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn two_sites_with_one_name_are_both_named() {
    let error = Registry::<Sqlite>::discover().unwrap_err();
    let sites = error.problems().iter().find_map(|problem| match problem {
        Problem::SameName { name, sites } if name == "same" => Some(sites.clone()),
        _ => None,
    });
    let lines: Vec<u32> = sites.unwrap().iter().map(|site| site.line).collect();
    assert_eq!(lines, [9, 18]);
}

#[test]
fn a_table_belongs_to_one_consumer_in_all_its_versions() {
    let error = Registry::<Sqlite>::discover().unwrap_err();
    let owners = error.problems().iter().find_map(|problem| match problem {
        Problem::SameTable { table, consumers } if *table == "users" => Some(consumers),
        _ => None,
    });
    let names: Vec<_> = owners.unwrap().iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["customers", "users"]);
    let versions_of_one = Selection::all().in_group("fine");
    let dependencies = Dependencies::new().with(Broker).with(Mailer);
    assert!(Registry::<Sqlite>::select(&versions_of_one, &dependencies).is_ok());
}

#[test]
fn a_consumer_is_built_from_its_dependencies() {
    let selection = Selection::all().in_group("fine");
    let dependencies = Dependencies::new().with(Broker).with(Mailer);
    let registry = Registry::<Sqlite>::select(&selection, &dependencies).unwrap();
    assert_eq!(registry.registered().len(), 4);
    let half = Dependencies::new().with(Broker);
    let error = Registry::<Sqlite>::select(&selection, &half).unwrap_err();
    assert_eq!(error.problems().len(), 1);
}

#[test]
fn a_name_given_by_hand_is_checked() {
    assert_eq!(check_name("users.v2"), Ok(()));
    for (name, message) in [
        (
            "",
            "the consumer name is empty: choose a unique one, such as `user_read_model`",
        ),
        (
            " users",
            "the consumer name ` users` has white space around it: write `users`",
        ),
        (
            "user model",
            "the consumer name `user model` has the character ' ': use only ASCII letters, digits and `_ - . : / @`",
        ),
    ] {
        assert_eq!(check_name(name).unwrap_err().to_string(), message);
    }
    assert!(matches!(
        check_name(&"u".repeat(300)),
        Err(NameError::TooLong { length: 300, .. })
    ));
    assert!(matches!(
        check_name(&"ü".repeat(200)),
        Err(NameError::Character {
            character: 'ü', ..
        })
    ));
}
