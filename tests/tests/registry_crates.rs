//! Consumers in several crates, as linkers treat them. The crates are in `fixtures/`.

use std::path::Path;

use consumer_tests::cargo_outside;

/// Runs cargo in the fixtures and returns its standard output.
fn cargo(arguments: &[&str]) -> String {
    let output = cargo_outside(env!("CARGO_TARGET_TMPDIR"))
        .args(arguments)
        .args(["--quiet", "--locked"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo {arguments:?}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

const EXPECTED: &str = "billing.invoices\nbilling.reminders\nshop.orders\n";

#[test]
fn a_crate_that_is_only_named_is_linked_in_dev() {
    assert_eq!(cargo(&["run", "-p", "shop"]), EXPECTED);
}

#[test]
fn a_crate_that_is_only_named_is_linked_in_release() {
    assert_eq!(cargo(&["run", "-p", "shop", "--release"]), EXPECTED);
}

#[test]
fn a_crate_that_is_only_named_is_linked_with_lto() {
    assert_eq!(cargo(&["run", "-p", "shop", "--profile", "lto"]), EXPECTED);
}

#[test]
fn a_crate_that_is_linked_twice_registers_once() {
    let output = cargo(&["test", "-p", "ledger", "--lib"]);
    assert!(output.contains("1 passed"), "{output}");
}

#[test]
fn without_auto_register_consumers_are_named_by_hand() {
    let output = cargo(&["run", "-p", "by_hand"]);
    assert!(
        output.contains("built without the feature `auto-register`"),
        "{output}"
    );
}

#[test]
fn a_crate_may_know_the_library_by_another_name() {
    assert_eq!(
        cargo(&["run", "-p", "renamed"]),
        "by_hand 1\nmade 1\nusers 2\neverywhere elsewhere\n"
    );
}
