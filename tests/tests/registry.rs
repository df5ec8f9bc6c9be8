//! Which consumers the registry finds, and which problems it reports.

use std::convert::Infallible;

use consumer::prelude::*;
use consumer::sqlx::{Postgres, Sqlite};
use consumer::{Problem, Registry, Selection, consumers};

struct UserReadModel;

#[consumer(name = "registry.users", aggregates = ["User"], group = "projections", batch_size = 10)]
impl UserReadModel {
    async fn handle(
        &self,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), Infallible> {
        Ok(())
    }
}

struct IntegrationPublisher;

#[consumer(name = "registry.integration")]
impl IntegrationPublisher {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), Infallible> {
        Ok(())
    }
}

struct OnPostgres;

#[consumer(name = "registry.postgres")]
impl OnPostgres {
    async fn handle(
        &self,
        _tx: &mut PgConnection,
        _event: &PersistedEvent,
    ) -> Result<(), Infallible> {
        Ok(())
    }
}

fn names<DB: consumer::sqlx::Database>(registry: &Registry<DB>) -> Vec<&str> {
    let registered = registry.registered().iter();
    registered.map(|one| &*one.declaration.name).collect()
}

#[test]
fn linked_consumers_are_found_and_sorted_by_name() {
    let registry = Registry::<Sqlite>::discover().unwrap();
    assert_eq!(names(&registry), ["registry.integration", "registry.users"]);
}

#[test]
fn a_program_with_several_databases_has_a_registry_for_each() {
    let sqlite = Registry::<Sqlite>::discover().unwrap();
    let postgres = Registry::<Postgres>::discover().unwrap();
    assert_eq!(
        names(&postgres),
        ["registry.integration", "registry.postgres"]
    );
    let [other] = sqlite.other_databases() else {
        panic!("{:?}", sqlite.other_databases());
    };
    assert_eq!(other.name, "registry.postgres");
    assert!(
        other.to_string().ends_with("runs on PostgreSQL only"),
        "{other}"
    );
}

#[test]
fn a_declaration_says_what_the_attribute_says() {
    let registry = Registry::<Sqlite>::discover().unwrap();
    let declaration = &registry.registered()[1].declaration;
    assert_eq!(&*declaration.scope[0], "User");
    assert_eq!(declaration.group, Some("projections"));
    assert_eq!(declaration.settings.batch_size, 10);
    let site = declaration.site.unwrap();
    assert_eq!(site.package, "consumer-tests");
    assert_eq!(site.module, module_path!());
    assert!(site.file.ends_with("registry.rs"));
    assert_eq!(site.line, 11);
}

#[test]
fn a_group_selects_some_of_the_consumers() {
    let registry = Registry::<Sqlite>::discover_group("projections", &Dependencies::new()).unwrap();
    assert_eq!(names(&registry), ["registry.users"]);
}

#[test]
fn a_group_without_consumers_is_a_problem_that_names_the_groups() {
    let error = Registry::<Sqlite>::discover_group("projection", &Dependencies::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no consumer is in the group `projection`: the groups are `projections`"
    );
}

#[test]
fn the_current_crate_can_be_named() {
    let selection = Selection::all().in_crates(consumers![crate]);
    let registry = Registry::<Sqlite>::select(&selection, &Dependencies::new()).unwrap();
    assert_eq!(registry.registered().len(), 2);
}

#[test]
fn a_named_crate_without_consumers_is_a_problem() {
    let crates = consumers![crate, anyhow];
    let error = Registry::<Sqlite>::discover_in(crates, &Dependencies::new()).unwrap_err();
    assert!(matches!(
        error.problems(),
        [Problem::NothingFromCrate { name: "anyhow" }]
    ));
}
