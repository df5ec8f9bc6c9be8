//! Which files of a crate import from which others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, File, ItemMod, ItemUse, Macro, Meta, UseTree, Visibility};

/// A path from the root of the crate, of a module or of an item.
type ModulePath = Vec<String>;

/// The imports of all files of a crate.
#[derive(Debug, Default)]
pub struct Imports {
    /// The files that each file imports from, by their paths below `src`.
    pub files: BTreeMap<String, BTreeSet<String>>,
    /// The imports of items that only `lib.rs` has, as `file: path`.
    pub from_root: BTreeSet<String>,
}

impl Imports {
    /// Reads a directory `src`.
    pub fn of_crate(src: &Path) -> Self {
        let mut files = Vec::new();
        for file in rust_files(src) {
            let text = std::fs::read_to_string(&file).expect("read a source file");
            let name = file.strip_prefix(src).expect("a file below `src`");
            files.push((name.display().to_string(), text));
        }
        Self::of_files(files.iter().map(|(name, text)| (&**name, &**text)))
    }

    /// Reads files that are given as path below `src` and text.
    pub fn of_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut modules: BTreeMap<ModulePath, Module> = files
            .into_iter()
            .map(|(name, text)| (module_path(name), Module::parse(name, text)))
            .collect();
        let known: BTreeSet<ModulePath> = modules.keys().cloned().collect();
        for (path, module) in &mut modules {
            module.collect(path, &known);
        }
        let mut imports = Self::default();
        for module in modules.values().filter(|module| module.file != "lib.rs") {
            let mut from = BTreeSet::new();
            for path in &module.imports {
                let target = &modules[&resolve(&modules, path)].file;
                if !known.contains(&path[..1]) {
                    let import = format!("{}: crate::{}", module.file, path.join("::"));
                    imports.from_root.insert(import);
                } else if *target != module.file {
                    from.insert(target.clone());
                }
            }
            imports.files.insert(module.file.clone(), from);
        }
        imports
    }
}

/// The Rust files below a directory, in order.
pub fn rust_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("read a directory of source files");
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("read an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

struct Module {
    file: String,
    ast: File,
    imports: BTreeSet<ModulePath>,
    /// The names that it gives to items of other modules.
    reexports: BTreeMap<String, ModulePath>,
}

impl Module {
    fn parse(file: &str, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            ast: syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}")),
            imports: BTreeSet::new(),
            reexports: BTreeMap::new(),
        }
    }

    fn collect(&mut self, path: &ModulePath, known: &BTreeSet<ModulePath>) {
        let mut collector = Collector {
            known,
            module: path.clone(),
            imports: BTreeSet::new(),
            reexports: BTreeMap::new(),
        };
        // Once for the names that `use` gives to modules, and once for the paths that begin with them.
        collector.visit_file(&self.ast);
        collector.visit_file(&self.ast);
        (self.imports, self.reexports) = (collector.imports, collector.reexports);
    }
}

/// `worker/lane/mod.rs` and `worker/lane.rs` are both `worker::lane`.
fn module_path(file: &str) -> ModulePath {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    let segments = path.split('/').map(str::to_owned);
    segments.filter(|segment| segment != "lib").collect()
}

/// The module that defines an item, found through the modules that re-export it.
fn resolve(modules: &BTreeMap<ModulePath, Module>, path: &[String]) -> ModulePath {
    let mut module = ModulePath::new();
    for (depth, segment) in path.iter().enumerate() {
        let child = [&module[..], std::slice::from_ref(segment)].concat();
        if modules.contains_key(&child) {
            module = child;
            continue;
        }
        return match modules[&module].reexports.get(segment) {
            Some(target) if *target != path[..=depth] => {
                resolve(modules, &[&target[..], &path[depth + 1..]].concat())
            }
            _ => module,
        };
    }
    module
}

struct Collector<'a> {
    known: &'a BTreeSet<ModulePath>,
    /// The module of the visited code, which may be an inline one.
    module: ModulePath,
    imports: BTreeSet<ModulePath>,
    reexports: BTreeMap<String, ModulePath>,
}

impl Collector<'_> {
    /// The path from the root, unless it leads to another crate or to an item of the file.
    fn absolute(&self, path: &[String]) -> Option<ModulePath> {
        let (first, rest) = path.split_first().filter(|(_, rest)| !rest.is_empty())?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&self.module[..], rest].concat()),
            "super" => {
                let supers = path
                    .iter()
                    .take_while(|segment| *segment == "super")
                    .count();
                let above = self.module.len().checked_sub(supers)?;
                Some([&self.module[..above], &path[supers..]].concat())
            }
            _ => {
                let child = [&self.module[..], std::slice::from_ref(first)].concat();
                if self.known.contains(&child) {
                    return Some([&self.module[..], path].concat());
                }
                let module = self.reexports.get(first)?;
                Some([&module[..], rest].concat())
            }
        }
    }

    fn import(&mut self, path: &[String]) {
        let absolute = self.absolute(path).filter(|path| !path.is_empty());
        self.imports.extend(absolute);
    }

    /// Finds paths in what a macro is given, which is not parsed.
    fn import_from_tokens(&mut self, tokens: TokenStream) {
        let mut path: ModulePath = Vec::new();
        for token in tokens {
            match &token {
                TokenTree::Ident(ident)
                    if path.last().is_none_or(|last| last == "::" || last == "$") =>
                {
                    path.push(ident.to_string());
                    continue;
                }
                TokenTree::Punct(colon) if colon.as_char() == ':' && !path.is_empty() => {
                    if path.last().is_some_and(|last| last != "::") {
                        path.push("::".to_owned());
                    }
                    continue;
                }
                TokenTree::Group(group) => self.import_from_tokens(group.stream()),
                _ => {}
            }
            self.import_joined(&mut path);
            if let TokenTree::Punct(dollar) = &token
                && dollar.as_char() == '$'
            {
                path.push("$".to_owned());
            }
            if let TokenTree::Ident(ident) = &token {
                path.push(ident.to_string());
            }
        }
        self.import_joined(&mut path);
    }

    fn import_joined(&mut self, path: &mut ModulePath) {
        let segments = std::mem::take(path).into_iter();
        let segments: ModulePath = segments.filter(|segment| segment != "::").collect();
        self.import(&segments);
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_public = !matches!(item.vis, Visibility::Inherited);
        for (path, name) in leaves(&item.tree) {
            let Some(absolute) = self.absolute(&path) else {
                continue;
            };
            // Re-exporting an item of a child is not using it.
            if !(is_public && absolute.starts_with(&self.module)) {
                self.imports.insert(absolute.clone());
            }
            self.reexports.insert(name, absolute);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        let segments: ModulePath = segments.map(|one| one.ident.to_string()).collect();
        self.import(&segments);
        visit::visit_path(self, path);
    }

    /// A macro that is exported is at the root wherever it was written.
    fn visit_macro(&mut self, used: &'ast Macro) {
        self.import_from_tokens(used.tokens.clone());
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_none() || module.attrs.iter().any(is_of_tests) {
            return;
        }
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }
}

/// Whether it is `#[cfg(test)]`, or has more conditions beside that.
fn is_of_tests(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    let condition = list.tokens.to_string();
    let mut words = condition.split(|c: char| !c.is_alphanumeric());
    list.path.is_ident("cfg") && words.any(|word| word == "test")
}

/// Each path that a `use` declaration names, and the name that it gives to it.
fn leaves(tree: &UseTree) -> Vec<(ModulePath, String)> {
    match tree {
        UseTree::Path(path) => leaves(&path.tree)
            .into_iter()
            .map(|(rest, name)| {
                let first = path.ident.to_string();
                let name = if name == "self" { first.clone() } else { name };
                let rest = rest.into_iter().filter(|segment| segment != "self");
                ([first].into_iter().chain(rest).collect(), name)
            })
            .collect(),
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(rename) => {
            vec![(vec![rename.ident.to_string()], rename.rename.to_string())]
        }
        UseTree::Glob(_) => vec![(vec!["*".to_owned()], "*".to_owned())],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}
