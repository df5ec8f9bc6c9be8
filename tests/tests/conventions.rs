//! Conventions that keep the tests and the examples of the documentation readable.

use std::path::{Path, PathBuf};

use consumer_tests::rust_files;
use proc_macro2::TokenTree;
use syn::visit::{self, Visit};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of the tests of a file: those of `#[test]` functions, and those that `test_on!` lists.
#[derive(Default)]
struct Names(Vec<String>);

impl<'a> Visit<'a> for Names {
    fn visit_item_fn(&mut self, function: &'a syn::ItemFn) {
        let mut attributes = function.attrs.iter();
        let is_test = |attribute: &syn::Attribute| {
            let last = attribute.path().segments.last();
            last.is_some_and(|last| last.ident == "test")
        };
        if attributes.any(is_test) {
            self.0.push(function.sig.ident.to_string());
        }
        visit::visit_item_fn(self, function);
    }

    fn visit_macro(&mut self, item: &'a syn::Macro) {
        if item.path.is_ident("test_on") {
            let tokens = item.tokens.clone().into_iter();
            self.0.extend(tokens.filter_map(|token| match token {
                TokenTree::Ident(name) => Some(name.to_string()),
                _ => None,
            }));
        }
    }
}

fn names(text: &str) -> Vec<String> {
    let mut names = Names::default();
    names.visit_file(&syn::parse_file(text).unwrap());
    names.0
}

#[test]
fn the_names_of_tests_are_found() {
    let file = "test_on!([sqlite, postgres], on_both, on_each);
        #[test] fn alone() {}
        #[tokio::test(flavor = \"multi_thread\")] async fn inside() {}
        fn no_test() {}
        mod tests { #[test] fn below() {} }";
    assert_eq!(
        names(file),
        ["on_both", "on_each", "alone", "inside", "below"]
    );
}

#[test]
fn the_name_of_a_test_has_at_most_60_characters() {
    let mut count = 0;
    for folder in [
        "consumer/src",
        "consumer-derive/src",
        "tests/src",
        "tests/tests",
        "examples",
    ] {
        for path in rust_files(&root().join(folder)) {
            let names = names(&std::fs::read_to_string(&path).unwrap());
            count += names.len();
            let long: Vec<_> = names.iter().filter(|name| name.len() > 60).collect();
            assert!(long.is_empty(), "{}: {long:?}", path.display());
        }
    }
    assert!(count > 1000, "only {count} tests");
}

/// The lines of Rust examples that rustdoc hides, in Markdown.
fn hidden_lines<'a>(markdown: impl Iterator<Item = &'a str>) -> usize {
    // Whether the lines are those of a block, and whether that is Rust.
    let (mut is_inside, mut is_rust) = (false, false);
    let mut count = 0;
    for line in markdown.map(str::trim) {
        if let Some(language) = line.strip_prefix("```") {
            is_inside = !is_inside;
            is_rust = !["sh", "sql", "text", "toml"].contains(&language);
        } else if is_inside && is_rust && (line == "#" || line.starts_with("# ")) {
            count += 1;
        }
    }
    count
}

/// The lines of a file's documentation.
fn documentation<'a>(path: &Path, text: &'a str) -> Vec<&'a str> {
    if path.extension() == Some("md".as_ref()) {
        return text.lines().collect();
    }
    let comment = |line: &'a str| {
        let line = line.trim_start();
        line.strip_prefix("///").or(line.strip_prefix("//!"))
    };
    text.lines().filter_map(comment).collect()
}

#[test]
fn hidden_lines_are_counted_in_rust_only() {
    let text = "# Title\n```\n# hidden\nshown\n #[shown]\n# \n```\n# Title\n```sh\n# comment\n```";
    assert_eq!(hidden_lines(text.lines()), 2);
    let source = "/// ```\n/// # hidden\n/// shown\n/// ```\nfn f() {}";
    assert_eq!(
        hidden_lines(documentation(Path::new("a.rs"), source).into_iter()),
        1
    );
}

/// Examples hide what all of them need, in two lines each. What is hidden beyond that is missing for the
/// reader.
#[test]
fn the_examples_hide_fewer_than_250_lines() {
    let source = root().join("consumer/src");
    let mut paths = rust_files(&source);
    let folders = ["guide", "contract", "registry"];
    for folder in folders {
        let entries = std::fs::read_dir(source.join(folder)).unwrap();
        let entries = entries.map(|entry| entry.unwrap().path());
        paths.extend(entries.filter(|path| path.extension() == Some("md".as_ref())));
    }
    paths.push(root().join("README.md"));
    let hidden = paths.iter().map(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        hidden_lines(documentation(path, &text).into_iter())
    });
    let hidden: usize = hidden.sum();
    assert!((100..250).contains(&hidden), "{hidden} hidden lines");
}
