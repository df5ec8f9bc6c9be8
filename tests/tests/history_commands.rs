//! Histories give every command that an operator has.

use std::collections::BTreeSet;
use std::path::Path;

use consumer_tests::history::{Command, Menu, Step};
use syn::{ImplItem, Item, Type, Visibility};

/// The commands of `Admin` in a file: its public methods that do something.
fn commands(file: &Path) -> Vec<String> {
    let code = std::fs::read_to_string(file).expect("read a file of `admin`");
    let file = syn::parse_file(&code).expect("a file of Rust");
    let methods = file.items.into_iter().filter_map(|item| match item {
        Item::Impl(block) if block.trait_.is_none() && is_admin(&block.self_ty) => {
            Some(block.items)
        }
        _ => None,
    });
    let commands = methods.flatten().filter_map(|item| match item {
        ImplItem::Fn(method) => {
            let is_public = matches!(method.vis, Visibility::Public(_));
            let is_command = is_public && method.sig.asyncness.is_some();
            is_command.then(|| method.sig.ident.to_string())
        }
        _ => None,
    });
    commands.collect()
}

fn is_admin(of: &Type) -> bool {
    match of {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|last| last.ident == "Admin"),
        _ => false,
    }
}

#[test]
fn each_command_of_an_operator_is_one_of_histories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../consumer/src/admin");
    let files = consumer_tests::rust_files(&folder);
    let existing: BTreeSet<String> = files.iter().flat_map(|file| commands(file)).collect();
    let played = Command::ALL.map(|command| command.name().to_owned());
    assert!(existing.contains("pause"), "{existing:?}");
    assert_eq!(existing, BTreeSet::from(played));
}

#[test]
fn each_command_is_given_in_the_histories_of_a_test() {
    let menu = Menu {
        concurrent_writers: false,
        own_server: false,
        hangs: 0,
        steps: 4..16,
        without: Vec::new(),
    };
    let steps = (0..500).flat_map(|seed| menu.steps(seed));
    let given = steps.filter_map(|step| match step {
        Step::Command(command, ..) => Some(command.name()),
        Step::Beside(steps) => match steps[..] {
            [Step::Command(command, ..)] => Some(command.name()),
            _ => None,
        },
        _ => None,
    });
    let given: BTreeSet<&str> = given.collect();
    assert_eq!(given, Command::ALL.map(Command::name).into());
}
