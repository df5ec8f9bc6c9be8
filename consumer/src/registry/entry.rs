//! The entry that `#[consumer]` leaves in the program. It compiles without drivers.

use std::any::{Any, TypeId};
use std::marker::PhantomData;
use std::sync::Arc;

use sqlx::Database;

use super::construct::OneConsumerBlockForEachType as Construct;
use super::knowledge::Knowledge;
use super::{Declaration, Dependencies, Site};
use crate::contract::generated::Transaction;
use crate::contract::read_model::Table;
use crate::contract::read_model::generated::RowsOfFold;
use crate::contract::{Consumer, ErasedConsumer, Formerly, HandlerError, Settings};

/// A declared consumer, before it is bound to a database.
#[derive(Debug)]
pub struct Entry {
    /// The unique name (R1).
    pub name: &'static str,
    /// The Rust type, as it is written.
    pub type_name: &'static str,
    /// The version. A new one is rebuilt beside the old.
    pub version: u32,
    /// The group.
    pub group: Option<&'static str>,
    /// The name that it had before.
    pub formerly: Formerly,
    /// The aggregate types in its scope.
    pub scope: &'static [&'static str],
    /// Its handlers, and what they know of events.
    pub knowledge: Knowledge,
    /// Its settings.
    pub settings: Settings,
    /// The table of its read model.
    pub read_model: Option<&'static Table>,
    /// The source location of its declaration.
    pub site: Site,
    /// How to make it for each database, one list per driver.
    pub factories: &'static [&'static [Factory]],
}

impl Entry {
    pub(super) fn declaration(&self) -> Declaration {
        Declaration {
            name: self.name.into(),
            version: self.version,
            group: self.group,
            formerly: self.formerly.clone(),
            scope: self.scope.iter().map(|&kind| kind.into()).collect(),
            settings: self.settings.clone(),
            read_model: self.read_model,
            site: Some(self.site),
        }
    }

    pub(super) fn factories(&self) -> impl Iterator<Item = &'static Factory> {
        self.factories.iter().copied().flatten()
    }

    pub(super) fn factory_for<DB: Database>(&self) -> Option<&'static Factory> {
        let database = TypeId::of::<DB>();
        self.factories()
            .find(|factory| factory.database == database)
    }
}

type Constructed = Result<Box<dyn Any + Send>, HandlerError>;

/// Makes a consumer for one database. The type of the database is erased, so that one list holds the
/// entries of all.
#[derive(Debug)]
pub struct Factory {
    database: TypeId,
    pub(super) database_name: &'static str,
    make: fn(&Dependencies) -> Constructed,
}

impl Factory {
    /// The factory of `C` for `DB`.
    #[must_use]
    pub const fn of<DB: Database, C: Consumer<DB> + Construct>() -> Self {
        Self {
            database: TypeId::of::<DB>(),
            database_name: DB::NAME,
            make: make_erased::<DB, C>,
        }
    }

    /// Makes the consumer, `None` if `DB` is another database.
    pub(super) fn make<DB: Database>(
        &self,
        dependencies: &Dependencies,
    ) -> Result<Option<Arc<dyn ErasedConsumer<DB>>>, HandlerError> {
        let made = (self.make)(dependencies)?;
        Ok(made
            .downcast::<Arc<dyn ErasedConsumer<DB>>>()
            .ok()
            .map(|consumer| *consumer))
    }
}

/// The factories for a driver that is not compiled in.
pub const NO_FACTORIES: [Factory; 0] = [];

/// Whether there is a factory of `T` for the database of the connection `C`. After a mistake in one of
/// the two, which is reported elsewhere, there is none.
#[derive(Debug)]
pub struct FactoryFor<C, T>(PhantomData<fn() -> (C, T)>);

impl<C: Transaction, T: Send + Sync> FactoryFor<C, T> {
    /// Takes precedence over [`NoFactory::FACTORY`], since it is inherent.
    pub const FACTORY: Present<C> = Present(PhantomData);
}

/// Applies after a mistake.
pub trait NoFactory {
    /// Has no factory.
    const FACTORY: Absent = Absent;
}

impl<C, T> NoFactory for FactoryFor<C, T> {}

/// The same for a consumer with a read model. `F` is its rows, in which the mistake may be too.
#[derive(Debug)]
pub struct FoldFactory<C, T, F>(FactoryFor<C, T>, PhantomData<fn() -> F>);

impl<C: Transaction, T: Send + Sync, F: RowsOfFold> FoldFactory<C, T, F> {
    /// Takes precedence over [`NoFoldFactory::FACTORY`], since it is inherent.
    pub const FACTORY: Present<C> = Present(PhantomData);
}

/// Applies after a mistake.
pub trait NoFoldFactory {
    /// Has no factory.
    const FACTORY: Absent = Absent;
}

impl<C, T, F> NoFoldFactory for FoldFactory<C, T, F> {}

/// The factory of a consumer without mistakes.
#[derive(Clone, Copy, Debug)]
pub struct Present<C>(PhantomData<fn() -> C>);

/// The absence of a factory.
#[derive(Clone, Copy, Debug)]
pub struct Absent;

#[expect(
    clippy::unused_self,
    reason = "the value chooses the type, and with it the method"
)]
impl<C: Transaction> Present<C> {
    /// Returns the factory.
    #[must_use]
    pub const fn factories<T: Consumer<C::Database> + Construct>(self) -> [Factory; 1] {
        [Factory::of::<C::Database, T>()]
    }
}

#[expect(
    clippy::unused_self,
    clippy::extra_unused_type_parameters,
    reason = "it replaces `Present::factories`"
)]
impl Absent {
    /// Returns no factory.
    #[must_use]
    pub const fn factories<T>(self) -> [Factory; 0] {
        []
    }
}

// Compiled once per consumer, so everything that does not depend on the consumer is in `erased`.
fn make_erased<DB: Database, C: Consumer<DB> + Construct>(
    dependencies: &Dependencies,
) -> Constructed {
    match C::construct(dependencies) {
        Ok(consumer) => Ok(erased::<DB>(Arc::new(consumer))),
        Err(error) => Err(error),
    }
}

fn erased<DB: Database>(consumer: Arc<dyn ErasedConsumer<DB>>) -> Box<dyn Any + Send> {
    Box::new(consumer)
}

#[cfg(feature = "auto-register")]
inventory::collect!(Entry);

/// All entries of the program. Each is listed once, although a crate that is linked twice, as in a
/// cycle of development dependencies, registers its consumers twice.
#[cfg(feature = "auto-register")]
pub(crate) fn linked_entries() -> Vec<&'static Entry> {
    let mut entries: Vec<&'static Entry> = inventory::iter::<Entry>().collect();
    entries.sort_by_key(|entry| (entry.name, entry.site, entry.type_name));
    entries.dedup_by_key(|entry| (entry.name, entry.site, entry.type_name));
    entries
}

/// Without the feature `auto-register` there are no entries.
#[cfg(not(feature = "auto-register"))]
pub(crate) fn linked_entries() -> Vec<&'static Entry> {
    Vec::new()
}

/// The entry of a version of a consumer, if it was declared with `#[consumer]`.
#[allow(dead_code)] // only operators ask
pub(crate) fn declared(name: &str, version: u32) -> Option<&'static Entry> {
    let mut entries = linked_entries().into_iter();
    entries.find(|entry| entry.name == name && entry.version == version)
}
