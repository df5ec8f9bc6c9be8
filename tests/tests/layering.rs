//! The modules of the library depend on each other in one direction.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use consumer_tests::{Imports, rust_files};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// `a ← b` reads: `b` may use `a`, and everything that `a` may use. Lowest layers first; `worker` is
/// the rest of the worker, which each of its parts may use too.
const ARCHITECTURE: [&str; 5] = [
    "contract ← registry",
    "contract ← backend ← store",
    "registry, store ← worker/log, worker/progress, worker/connections ← worker/poller",
    "worker/poller ← worker/lane ← worker/run ← worker ← admin ← dashboard ← cli",
    "cli ← testing ← prelude, __private, __doc, guide, observing",
];

/// The layers that each layer may use.
fn architecture() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut layers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in ARCHITECTURE {
        let groups: Vec<Vec<&str>> = line
            .split(" ← ")
            .map(|group| group.split(", ").collect())
            .collect();
        for pair in groups.windows(2) {
            for used in &pair[0] {
                let below = layers.entry(*used).or_default().clone();
                for user in &pair[1] {
                    let layer = layers.entry(*user).or_default();
                    layer.extend(below.iter().copied().chain([*used]));
                }
            }
        }
    }
    layers
}

/// The layer of a file, unless the architecture has none for it.
fn layer<'a>(layers: &BTreeMap<&'a str, BTreeSet<&'a str>>, file: &str) -> Option<&'a str> {
    let module = file.trim_end_matches(".rs");
    let contains = |layer: &&&str| {
        let below = module.strip_prefix(**layer);
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    };
    let known = layers.keys().filter(contains);
    known.max_by_key(|layer| layer.len()).copied()
}

/// The files that a file uses, and those that they use in turn where `through` says so.
fn reach<'a>(
    imports: &'a Imports,
    file: &str,
    through: impl Fn(&str) -> bool,
) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![file];
    while let Some(file) = open.pop() {
        for import in &imports.files[file] {
            if reached.insert(import.as_str()) && through(import) {
                open.push(import);
            }
        }
    }
    reached
}

/// Each use of a layer that is not below, directly or through the rest of the worker, and each file without
/// a layer.
fn reversed(imports: &Imports) -> Vec<String> {
    let layers = architecture();
    let mut reversed = Vec::new();
    for file in imports.files.keys() {
        let Some(own) = layer(&layers, file) else {
            reversed.push(format!("{file} has no layer"));
            continue;
        };
        for import in reach(imports, file, |file| layer(&layers, file) == Some("worker")) {
            let Some(other) = layer(&layers, import) else {
                continue;
            };
            let within = other == own || other == "worker" && own.starts_with("worker");
            if !within && !layers[own].contains(other) {
                reversed.push(format!("{file} uses {import}"));
            }
        }
    }
    reversed
}

/// The groups of files that use each other in a circle.
fn cycles(imports: &Imports) -> BTreeSet<Vec<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = imports
        .files
        .keys()
        .map(|file| (file.as_str(), reach(imports, file, |_| true)))
        .collect();
    let cycle_of = |file: &&str| {
        let of_file = reached[file].iter().copied();
        of_file
            .filter(|other| reached[other].contains(file))
            .collect()
    };
    let cycles = reached.keys().map(cycle_of);
    cycles
        .filter(|cycle: &Vec<&str>| !cycle.is_empty())
        .collect()
}

/// Everything that breaks a rule.
fn violations(imports: &Imports) -> Vec<String> {
    let cycles = cycles(imports).into_iter();
    let cycles = cycles.map(|files| format!("{} use each other", files.join(", ")));
    let from_root = imports.from_root.iter();
    let from_root = from_root.map(|import| format!("{import} is imported from lib.rs"));
    reversed(imports)
        .into_iter()
        .chain(cycles)
        .chain(from_root)
        .collect()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../consumer/src")
}

/// The lines that add a duration, which may be `Duration::MAX`, to the present: that panics.
fn unbounded_instants(code: &str) -> Vec<&str> {
    let is_sum = |line: &&str| line.contains("now() + ") || line.contains("now + ");
    code.lines().filter(is_sum).map(str::trim).collect()
}

#[test]
fn no_instant_is_a_sum_that_may_overflow() {
    assert_eq!(
        unbounded_instants("let end = Instant::now() + limit;").len(),
        1
    );
    // One caps the duration, and the other adds what has just passed.
    let allowed = [
        (
            "worker/timeouts.rs",
            "Instant::now() + duration.min(FOREVER)",
        ),
        (
            "contract/read_model/batch.rs",
            "let until = Instant::now() + began.elapsed();",
        ),
    ];
    let mut found = Vec::new();
    for file in rust_files(&source()) {
        let code = std::fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(source()).unwrap().to_str().unwrap();
        let sums = unbounded_instants(&code).into_iter();
        found.extend(sums.map(|line| (name.to_owned(), line.to_owned())));
    }
    let allowed = allowed.map(|(file, line)| (file.to_owned(), line.to_owned()));
    let (found, allowed) = (BTreeSet::from_iter(found), BTreeSet::from(allowed));
    assert_eq!(found, allowed, "use `worker::timeouts::after`");
}

/// A small library that keeps the rules.
const SOUND: [(&str, &str); 7] = [
    (
        "lib.rs",
        "mod contract; mod store; mod worker; mod admin;
         pub use self::contract::Event;",
    ),
    ("contract/mod.rs", "mod event; pub use self::event::Event;"),
    ("contract/event.rs", "pub struct Event;"),
    (
        "store.rs",
        "use crate::contract::Event; pub struct Store(Event);",
    ),
    (
        "worker/mod.rs",
        "mod error; mod log; mod lane; mod run; pub use self::run::run;",
    ),
    ("worker/error.rs", "pub enum Error {}"),
    (
        "worker/log.rs",
        "use super::error::Error; pub fn read() -> Result<crate::store::Store, Error> { todo!() }",
    ),
];

/// The small library with other files beside its own.
fn library(files: &[(&'static str, &'static str)]) -> Imports {
    Imports::of_files(SOUND.into_iter().chain(files.iter().copied()))
}

#[test]
fn a_library_that_keeps_the_rules_passes() {
    let imports = library(&[
        ("worker/lane.rs", "use crate::worker::log::read;"),
        ("worker/run.rs", "use super::lane; pub fn run() {}"),
        ("admin.rs", "use crate::worker::run;"),
    ]);
    assert_eq!(violations(&imports), [""; 0]);
}

/// A file of a layer, which uses an item of another one.
fn file_of(layer: &str, text: String) -> (String, String) {
    let is_folder = layer == "worker";
    let file = if is_folder {
        "worker/mod.rs".to_owned()
    } else {
        format!("{layer}.rs")
    };
    (file, text)
}

#[test]
fn each_arrow_that_is_reversed_is_found() {
    let layers = architecture();
    let pairs = layers
        .iter()
        .flat_map(|(user, below)| below.iter().map(move |used| (*user, *used)));
    // The parts of the worker may use its rest.
    let pairs = pairs.filter(|(user, used)| !(*user == "worker" && used.starts_with("worker/")));
    let mut count = 0;
    for (user, used) in pairs {
        let path = user.replace('/', "::");
        let files = [
            ("lib.rs".to_owned(), String::new()),
            ("worker/mod.rs".to_owned(), String::new()),
            file_of(user, String::new()),
            file_of(used, format!("fn f() {{ crate::{path}::item() }}")),
        ];
        let imports = Imports::of_files(files.iter().map(|(name, text)| (&**name, &**text)));
        let (user, used) = (&files[2].0, &files[3].0);
        assert_eq!(violations(&imports), [format!("{used} uses {user}")]);
        count += 1;
    }
    assert!(count > 80, "only {count} pairs");
}

#[test]
fn a_file_without_a_layer_is_found() {
    let imports = library(&[("helpers/mod.rs", "pub fn help() {}")]);
    assert_eq!(violations(&imports), ["helpers/mod.rs has no layer"]);
}

#[test]
fn an_arrow_reversed_through_the_name_of_a_module_is_found() {
    let lane = ("worker/lane.rs", "pub struct Lane;");
    let expected = ["worker/progress.rs uses worker/lane.rs"];
    for text in [
        "use crate::worker; fn f() { worker::lane::Lane; }",
        "use crate::worker as lanes; use lanes::lane::Lane;",
        "fn f() { println!(\"{}\", worker::lane::Lane) } use crate::worker;",
    ] {
        let imports = library(&[("worker/progress.rs", text), lane]);
        assert_eq!(violations(&imports), expected, "{text}");
    }
}

#[test]
fn an_arrow_that_is_reversed_is_found() {
    let imports = library(&[
        ("worker/progress.rs", "use crate::worker::poller::Poller;"),
        ("worker/poller.rs", "pub struct Poller;"),
    ]);
    assert_eq!(
        violations(&imports),
        ["worker/progress.rs uses worker/poller.rs"]
    );
    let imports = library(&[("contract/settings.rs", "fn f() { crate::store::open() }")]);
    assert_eq!(violations(&imports), ["contract/settings.rs uses store.rs"]);
    let imports = library(&[
        ("worker/options.rs", "use crate::{admin as operators};"),
        ("admin.rs", ""),
    ]);
    assert_eq!(violations(&imports), ["worker/options.rs uses admin.rs"]);
}

#[test]
fn layers_beside_each_other_do_not_use_each_other() {
    let imports = library(&[(
        "worker/connections.rs",
        "use super::{error, log::{self, read}};",
    )]);
    assert_eq!(
        violations(&imports),
        ["worker/connections.rs uses worker/log.rs"]
    );
}

#[test]
fn an_arrow_reversed_through_another_file_is_found() {
    let imports = library(&[
        ("worker/progress.rs", "use super::options::Options;"),
        ("worker/options.rs", "use super::lane::Lane;"),
        ("worker/lane.rs", "pub struct Lane;"),
    ]);
    assert_eq!(
        violations(&imports),
        ["worker/progress.rs uses worker/lane.rs"]
    );
    let imports = library(&[
        ("backend.rs", "use crate::worker::run;"),
        ("worker/run.rs", "pub fn run() {}"),
    ]);
    assert_eq!(violations(&imports), ["backend.rs uses worker/run.rs"]);
}

#[test]
fn an_arrow_reversed_inside_a_macro_is_found() {
    let imports = library(&[(
        "contract/settings.rs",
        "fn f() { println!(\"{}\", crate::store::open()) }",
    )]);
    assert_eq!(violations(&imports), ["contract/settings.rs uses store.rs"]);
}

#[test]
fn a_cycle_between_files_is_found() {
    let imports = library(&[
        ("cli/mod.rs", "mod rebuild; mod commands;"),
        (
            "cli/commands.rs",
            "use super::rebuild::rebuild; pub fn all() {}",
        ),
        (
            "cli/rebuild.rs",
            "use crate::cli::commands::all; pub fn rebuild() {}",
        ),
    ]);
    let expected = "cli/commands.rs, cli/rebuild.rs use each other";
    assert_eq!(violations(&imports), [expected]);
}

#[test]
fn a_cycle_of_a_module_and_its_child_is_found() {
    let imports = library(&[
        (
            "cli/mod.rs",
            "mod tables; use self::tables::print; pub struct Width;",
        ),
        ("cli/tables.rs", "use super::Width; pub fn print() {}"),
    ]);
    let expected = "cli/mod.rs, cli/tables.rs use each other";
    assert_eq!(violations(&imports), [expected]);
}

#[test]
fn an_import_from_the_root_is_found() {
    let imports = library(&[("registry.rs", "use crate::Event;")]);
    let expected = "registry.rs: crate::Event is imported from lib.rs";
    assert_eq!(violations(&imports), [expected]);
}

#[test]
fn a_path_that_a_macro_writes_for_its_caller_is_no_import() {
    let exported = "macro_rules! all { () => { $crate::Event::all($crate::store::open()) }; }";
    let imports = library(&[("contract/settings.rs", exported)]);
    assert_eq!(violations(&imports), [""; 0]);
}

#[test]
fn a_module_of_tests_may_import_anything() {
    let tests = "#[cfg(test)] mod tests { use crate::{Event, admin::Admin}; }";
    let imports = library(&[("registry.rs", tests), ("admin.rs", "pub struct Admin;")]);
    assert_eq!(violations(&imports), [""; 0]);
}

#[test]
fn the_library_keeps_the_rules() {
    let violations = violations(&Imports::of_crate(&source()));
    assert!(violations.is_empty(), "{violations:#?}");
}

/// The imports of a template of the macro crate from what knows the rules.
fn rules_in_templates(imports: &Imports) -> Vec<String> {
    let is_in = |file: &str, module: &str| {
        let mut parts = file.trim_end_matches(".rs").split('/');
        parts.any(|part| part == module)
    };
    let templates = imports
        .files
        .iter()
        .filter(|(file, _)| is_in(file, "expand"));
    let pairs = templates.flat_map(|(file, used)| used.iter().map(move |used| (file, used)));
    pairs
        .filter(|(_, used)| is_in(used, "validate"))
        .map(|(file, used)| format!("{file} uses {used}"))
        .collect()
}

#[test]
fn a_template_that_uses_a_rule_is_found() {
    let imports = Imports::of_files([
        ("lib.rs", ""),
        ("validate/mod.rs", "mod block;"),
        ("validate/block.rs", "pub fn check() {}"),
        (
            "expand/mod.rs",
            "mod rows; use crate::validate; fn f() { validate::block::check() }",
        ),
        ("expand/rows.rs", "use crate::model::Model;"),
        ("model.rs", "pub struct Model;"),
        ("event/expand.rs", "use super::validate::validate;"),
        ("event/mod.rs", "mod expand; mod validate;"),
        ("event/validate.rs", "pub fn validate() {}"),
    ]);
    let expected = [
        "event/expand.rs uses event/validate.rs",
        "expand/mod.rs uses validate/block.rs",
        "expand/mod.rs uses validate/mod.rs",
    ];
    assert_eq!(rules_in_templates(&imports), expected);
}

#[test]
fn no_template_of_the_macro_crate_uses_a_rule() {
    let imports = Imports::of_crate(&source().join("../../consumer-derive/src"));
    let templates = imports.files.keys().filter(|file| file.contains("expand"));
    assert!(templates.count() >= 8);
    assert_eq!(rules_in_templates(&imports), [""; 0]);
}

/// Files outside `backend` that contain SQL.
const WITH_SQL: [(&str, &str); 1] = [(
    "__doc.rs",
    "the handlers of the examples, which are a program's own",
)];

/// Whether a text contains a statement, at the beginning of a line.
fn is_sql(text: &str) -> bool {
    let verbs = [
        "SELECT ",
        "INSERT INTO ",
        "UPDATE ",
        "DELETE FROM ",
        "CREATE ",
        "ALTER ",
        "DROP ",
    ];
    text.lines()
        .map(|line| line.trim_start_matches(['"', ' ']))
        .any(|line| verbs.iter().any(|verb| line.starts_with(verb)))
}

/// The constants and texts of a file that contain SQL.
fn sql_in(text: &str) -> Vec<String> {
    let mut statements = Statements::default();
    statements.visit_file(&syn::parse_file(text).unwrap());
    let statements = statements.0.into_iter();
    statements
        .filter(|(_, text)| is_sql(text))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn sql_in_a_file_is_found() {
    let file = r#"
        /// SELECT 1 FROM events
        const READ: &str = "SELECT 1 FROM {events}";
        const FORGET: &str = concat!("
            DELETE FROM {progress}", " WHERE true");
        const KEY: &str = "UPDATE_LOCK";
        fn run() {
            query("INSERT INTO {heads} VALUES (1)");
            query(format!("CREATE TABLE {name} (id TEXT)"));
            query("cannot select from a table");
        }
        #[cfg(test)] mod tests { const IN_A_TEST: &str = "DROP TABLE t"; }"#;
    assert_eq!(sql_in(file), ["READ", "FORGET", "a text", "a macro"]);
}

#[test]
fn only_the_backend_contains_sql() {
    let source = source();
    let mut found = BTreeSet::new();
    for path in rust_files(&source) {
        let file = path.strip_prefix(&source).unwrap().display().to_string();
        if !file.starts_with("backend/")
            && !sql_in(&std::fs::read_to_string(&path).unwrap()).is_empty()
        {
            found.insert(file);
        }
    }
    let excepted = WITH_SQL.map(|(file, _)| file.to_owned());
    assert_eq!(found, BTreeSet::from(excepted));
}

/// The two halves of a backend: the files, and the tables as their templates name them.
const HALVES: [(&[&str], &[&str]); 2] = [
    (
        &[
            "events.rs",
            "browse.rs",
            "frontier.rs",
            "catalogue.rs",
            "sequence.rs",
        ],
        &["events", "heads", "frontier", "log_state"],
    ),
    (
        &[
            "checkpoints.rs",
            "marks.rs",
            "held_marks.rs",
            "operate.rs",
            "ledger.rs",
            "pending.rs",
            "tables.rs",
            "views.rs",
            "renames.rs",
            "retired.rs",
        ],
        &[
            "progress",
            "workers",
            "pending",
            "parked",
            "handled",
            "logs",
            "marks",
            "active",
            "read models",
            "retired",
        ],
    ),
];

/// Files in which the halves meet.
const OF_BOTH_HALVES: [(&str, &str); 2] = [
    (
        "migrations.rs",
        "creates, finds and checks the tables of both",
    ),
    ("schema.rs", "explains the names"),
];

/// Collects the statements of a file: the text of each constant and of each macro as a whole, and each text
/// in a function.
#[derive(Default)]
struct Statements(Vec<(String, String)>);

/// All texts of an expression, one after the other.
#[derive(Default)]
struct Texts(String);

impl<'a> Visit<'a> for Texts {
    fn visit_macro(&mut self, item: &'a syn::Macro) {
        self.0 += &text_of(item.tokens.clone());
    }

    fn visit_lit_str(&mut self, text: &'a syn::LitStr) {
        self.0 += &text.value();
    }
}

impl Statements {
    fn add(&mut self, name: &syn::Ident, expression: &syn::Expr) {
        let mut texts = Texts::default();
        texts.visit_expr(expression);
        self.0.push((name.to_string(), texts.0));
    }
}

/// All texts in some code, one after the other.
fn text_of(tokens: TokenStream) -> String {
    let text = |token| match token {
        TokenTree::Group(group) => text_of(group.stream()),
        TokenTree::Literal(literal) => literal.to_string(),
        _ => String::new(),
    };
    tokens.into_iter().map(text).collect()
}

impl<'a> Visit<'a> for Statements {
    /// The text of a comment is no statement.
    fn visit_attribute(&mut self, _: &'a syn::Attribute) {}

    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        self.add(&item.ident, &item.expr);
    }

    fn visit_impl_item_const(&mut self, item: &'a syn::ImplItemConst) {
        self.add(&item.ident, &item.expr);
    }

    fn visit_item_macro(&mut self, item: &'a syn::ItemMacro) {
        let name = item.ident.as_ref().map(ToString::to_string);
        let text = text_of(item.mac.tokens.clone());
        self.0.push((name.unwrap_or_default(), text));
    }

    fn visit_macro(&mut self, item: &'a syn::Macro) {
        let text = text_of(item.tokens.clone());
        self.0.push((String::from("a macro"), text));
    }

    fn visit_lit_str(&mut self, text: &'a syn::LitStr) {
        self.0.push((String::from("a text"), text.value()));
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }
}

/// The statements of a file that name tables of a half to which the file does not belong.
fn strangers(file: &str, text: &str) -> Vec<String> {
    let mut statements = Statements::default();
    statements.visit_file(&syn::parse_file(text).unwrap());
    let names = |sql: &str, table: &str| sql.contains(&format!("{{{table}}}"));
    let is_strange = |sql: &str| {
        let foreign = HALVES.iter().filter(|(files, _)| !files.contains(&file));
        let mut tables = foreign.flat_map(|(_, tables)| tables.iter());
        tables.any(|table| names(sql, table))
    };
    let statements = statements.0.into_iter();
    statements
        .filter(|(_, sql)| is_strange(sql))
        .map(|(name, _)| format!("{file}: {name}"))
        .collect()
}

#[test]
fn a_statement_on_tables_of_the_other_half_is_found() {
    let file = r#"
        const GOOD: &str = "SELECT 1 FROM {events} JOIN {heads}";
        const BOTH: &str = concat!("SELECT 1 FROM {events}", " JOIN {progress}");
        impl A for B { const OTHER: &'static str = "DELETE FROM {parked}"; }
        fn run() { query("SELECT * FROM {logs}"); query("SELECT * FROM {log_state}"); }
        macro_rules! parts { () => { "{heads}" "{active}" } }"#;
    let found = strangers("frontier.rs", file);
    let names = ["BOTH", "OTHER", "a text", "parts"];
    assert_eq!(found, names.map(|name| format!("frontier.rs: {name}")));
    assert_eq!(strangers("rows.rs", file).len(), 6, "it belongs to no half");
}

/// The half to which a file of the backend belongs.
fn half(file: &str) -> Option<usize> {
    let name = file.strip_prefix("backend/")?.rsplit('/').next()?;
    HALVES.iter().position(|(files, _)| files.contains(&name))
}

/// The imports of one half from the other.
fn across(imports: &Imports) -> Vec<String> {
    let mut across = Vec::new();
    for (file, used) in &imports.files {
        let Some(own) = half(file) else { continue };
        let foreign = used
            .iter()
            .filter(|import| half(import).is_some_and(|half| half != own));
        across.extend(foreign.map(|import| format!("{file} uses {import}")));
    }
    across
}

#[test]
fn an_import_from_the_other_half_is_found() {
    let both = [
        (
            "backend/mod.rs",
            "mod frontier; mod postgres; mod snapshot; mod checkpoints; pub use self::checkpoints::Rows;",
        ),
        ("backend/checkpoints.rs", "pub struct Rows;"),
        ("backend/frontier.rs", "use super::Rows;"),
        (
            "backend/postgres/frontier.rs",
            "use crate::backend::checkpoints::Rows;",
        ),
        ("backend/postgres/mod.rs", "mod frontier;"),
        ("backend/snapshot.rs", "use super::{checkpoints, frontier};"),
    ];
    let expected = ["backend/frontier.rs", "backend/postgres/frontier.rs"];
    let expected = expected.map(|file| format!("{file} uses backend/checkpoints.rs"));
    assert_eq!(across(&library(&both)), expected);
}

#[test]
fn the_halves_of_a_backend_do_not_use_each_other() {
    let imports = Imports::of_crate(&source());
    assert_eq!(across(&imports), [""; 0]);
}

#[test]
fn the_halves_of_a_backend_share_no_statement() {
    let mut found = BTreeSet::new();
    for path in rust_files(&source().join("backend")) {
        let file = path.file_name().unwrap().to_str().unwrap();
        if !OF_BOTH_HALVES.iter().any(|(both, _)| *both == file) {
            found.extend(strangers(file, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    assert_eq!(found, BTreeSet::new());
}
