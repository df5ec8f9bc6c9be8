//! The crates from which a program takes its consumers.

/// The crates named in [`consumers!`](crate::consumers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crates {
    names: Vec<&'static str>,
}

impl Crates {
    #[doc(hidden)]
    #[must_use]
    pub fn of_modules(modules: &[&'static str]) -> Self {
        Self {
            names: modules.iter().map(|module| crate_of(module)).collect(),
        }
    }

    /// Returns the names of the crates, as written in paths.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    pub(super) fn contain(&self, module: &'static str) -> bool {
        self.names.contains(&crate_of(module))
    }
}

pub(super) fn crate_of(module: &'static str) -> &'static str {
    module.split_once("::").map_or(module, |(name, _)| name)
}

/// Names the crates from which a program takes its consumers.
///
/// A crate that no path mentions is not linked, even if it is a dependency, and its consumers are
/// silently missing. Naming it here proves that it exists, links it, and restricts the registry to
/// the named crates. A named crate without consumers is an error at start-up.
///
/// ```
/// let crates = consumer::consumers![crate];
/// assert_eq!(crates.names().len(), 1);
/// ```
///
/// Other crates are named as in paths: `consumers![crate, billing, shipping]`. A crate that Cargo.toml
/// renames is followed by its own name: `consumers![crate, money = "billing"]`.
#[macro_export]
macro_rules! consumers {
    ($($name:tt $(= $own:literal)?),+ $(,)?) => {{
        $( $crate::__link_crate!($name); )+
        $crate::Crates::of_modules(&[$( $crate::__crate_name!($name $(= $own)?) ),+])
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __link_crate {
    (crate) => {};
    ($name:ident) => {
        #[allow(unused_imports)]
        use ::$name as _;
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __crate_name {
    (crate) => {
        ::core::module_path!()
    };
    ($name:ident) => {
        ::core::stringify!($name)
    };
    ($name:ident = $own:literal) => {
        $own
    };
}
