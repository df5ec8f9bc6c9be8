//! Prints how long the functions and files of each crate are.

use std::path::Path;

use consumer_tests::rust_files;
use proc_macro2::Span;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// The lengths in lines of one crate.
#[derive(Default)]
struct Shape {
    functions: Vec<usize>,
    /// Of each file, with its name.
    files: Vec<(usize, String)>,
}

impl Shape {
    fn of(krate: &Path) -> Self {
        let mut shape = Self::default();
        for file in rust_files(krate) {
            let name = file.strip_prefix(krate).expect("a file of the crate");
            let name = name.display().to_string();
            // Neither what cargo builds nor programs that are not to compile.
            if name.starts_with("target/") || name.contains("/target/") || name.starts_with("ui/") {
                continue;
            }
            let text = std::fs::read_to_string(&file).expect("read the file");
            let parsed = syn::parse_file(&text);
            shape.visit_file(&parsed.unwrap_or_else(|error| panic!("{name}: {error}")));
            shape.files.push((text.lines().count(), name));
        }
        shape.functions.sort_unstable();
        shape
    }

    fn quantile(&self, share: f64) -> usize {
        let at = (self.functions.len().saturating_sub(1) as f64 * share).round();
        self.functions.get(at as usize).copied().unwrap_or(0)
    }

    fn function(&mut self, whole: Span) {
        self.functions
            .push(whole.end().line + 1 - whole.start().line);
    }
}

impl<'ast> Visit<'ast> for Shape {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function(function.sig.span().join(function.block.span()).unwrap());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(function.sig.span().join(function.block.span()).unwrap());
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.function(function.sig.span().join(block.span()).unwrap());
        }
        visit::visit_trait_item_fn(self, function);
    }
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    println!("| crate | functions | median | p90 | maximum | largest file | total lines |");
    println!("|---|---|---|---|---|---|---|");
    for krate in ["consumer", "consumer-derive", "tests"] {
        let shape = Shape::of(&root.join(krate));
        let (lines, largest) = shape.files.iter().max().expect("a crate has files");
        println!(
            "| {krate} | {} | {} | {} | {} | {largest} ({lines}) | {} |",
            shape.functions.len(),
            shape.quantile(0.5),
            shape.quantile(0.9),
            shape.quantile(1.0),
            shape.files.iter().map(|(lines, _)| lines).sum::<usize>(),
        );
    }
}
