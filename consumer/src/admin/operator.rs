//! The operator, and how it finds the consumer that a command names.

use std::fmt;
use std::sync::Arc;

use sqlx::Transaction;
use tokio::sync::{Mutex, watch};

use super::borrowed::Borrowed;
use super::error::AdminError;
use super::options::Target;
use super::text::{listed, listed_like};
use crate::backend::{
    self, Access, Backend, BrowseStatements, CheckpointStatements, ConsumerId, HeldBack,
    LagStatements, NameStatements, OperateStatements, Program, ReadModelTable, Row, StoreError,
    ViewStatements, begin, refuse_elsewhere, schema_of_version, table_schema,
};
use crate::contract::read_model::{Table, VersionTable};
use crate::registry::{Declaration, Registered};
use crate::store::EventStore;
use crate::worker::connections::{Connections, Shares};
use crate::worker::poller::assignment::WorkerConsumer;
use crate::worker::tables::prepare_before_rows;
use crate::worker::{BuildError, WorkerBuilder, WorkerError};

/// Inspects and changes the consumers of a store.
///
/// It needs no running worker and does not disturb one: each change is made under the row lock that
/// a worker takes to save a batch. Commands that call a consumer's code (rebuild, retry) need that
/// consumer in the program; create the `Admin` with [`WorkerBuilder::admin`] for them.
///
/// ```
/// # consumer::__doc::run(async |store| {
/// use consumer::admin::Admin;
///
/// let status = Admin::new(store).status().await?;
/// assert!(status.consumers.is_empty());
/// # Ok(()) }).unwrap();
/// ```
pub struct Admin<DB: Backend> {
    pub(super) store: EventStore<DB>,
    /// The tables; `None` until the first statement.
    tables: Mutex<Option<Arc<Tables<DB>>>>,
    pub(super) connections: Arc<Connections<DB>>,
    pub(super) code: Vec<Registered<DB>>,
    /// Whether `code` is everything the program has, so that other consumers are detached.
    pub(super) knows_code: bool,
    /// Names of this program's consumers that another process runs.
    pub(super) elsewhere: Vec<String>,
    /// The release that the program names.
    pub(super) release: Option<Arc<str>>,
    /// Never asks a handler to stop.
    pub(super) stop: watch::Sender<bool>,
    pub(super) watch: Mutex<Option<DB::Watch>>,
}

/// The tables by the schemas in which they were found, and the statements on them.
pub(super) struct Tables<DB: Backend> {
    pub(super) store: EventStore<DB>,
    pub(super) sql: OperateStatements,
    pub(super) lag: LagStatements,
    pub(super) checkpoints: CheckpointStatements,
    pub(super) names: NameStatements,
    pub(super) views: ViewStatements,
    pub(super) browse: BrowseStatements,
}

impl<DB: Backend> Tables<DB> {
    async fn of(store: &EventStore<DB>) -> Result<Self, AdminError> {
        let store = store.located().await?;
        let settings = store.settings();
        Ok(Self {
            sql: DB::operate_statements(settings),
            lag: DB::lag_statements(settings),
            checkpoints: DB::checkpoint_statements(settings),
            names: DB::name_statements(settings),
            views: DB::view_statements(settings),
            browse: DB::browse_statements(settings),
            store,
        })
    }
}

impl<DB: Backend> fmt::Debug for Admin<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("store", &self.store)
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

impl<DB: Backend> WorkerBuilder<DB> {
    /// Creates an [`Admin`] that knows this worker's consumers, including those that have never run.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// use consumer::Worker;
    ///
    /// let admin = Worker::builder(store).consumer(Users).admin()?;
    /// assert!(admin.status().await?.consumer("users").is_some());
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If the consumers do not fit together.
    pub fn admin(mut self) -> Result<Admin<DB>, BuildError> {
        self.resolve()?;
        Ok(Admin::with_code(&self))
    }
}

impl<DB: Backend> Admin<DB> {
    /// Creates an [`Admin`] without any consumer's code, which is enough to inspect, pause, resume,
    /// skip and forget.
    #[must_use]
    pub fn new(store: EventStore<DB>) -> Self {
        Self {
            tables: Mutex::new(None),
            connections: Arc::new(Connections::new(store.clone(), Shares::ONE)),
            store,
            code: Vec::new(),
            knows_code: false,
            elsewhere: Vec::new(),
            release: None,
            stop: watch::channel(false).0,
            watch: Mutex::new(None),
        }
    }

    /// Creates an operator of the consumers that the builder has resolved.
    pub(crate) fn with_code(builder: &WorkerBuilder<DB>) -> Self {
        let mut admin = Self::new(builder.store().clone());
        admin.code = builder.consumers().to_vec();
        admin.elsewhere = builder.elsewhere().to_vec();
        admin.release = builder.named_release().cloned();
        admin.knows_code = true;
        admin
    }

    /// Returns the store, for example to query your own tables through `admin.store().pool()`.
    #[must_use]
    pub fn store(&self) -> &EventStore<DB> {
        &self.store
    }

    /// The tables, which are looked up once: a consumer's code, or the next connection of the pool, may
    /// have another search path.
    pub(super) async fn tables(&self) -> Result<Arc<Tables<DB>>, AdminError> {
        let mut tables = self.tables.lock().await;
        if let Some(known) = &*tables {
            return Ok(Arc::clone(known));
        }
        let found = match Tables::of(&self.store).await {
            Err(missing @ AdminError::Store(StoreError::NotMigrated { .. })) => {
                // It may know more, such as that the mapping is another one.
                self.store.check().await?;
                return Err(missing);
            }
            found => Arc::new(found?),
        };
        *tables = Some(Arc::clone(&found));
        Ok(found)
    }

    /// Finds the consumer that a command names.
    pub(crate) async fn find(&self, target: Target) -> Result<ConsumerId, AdminError> {
        let rows = self.rows().await?;
        let mut known: Vec<ConsumerId> = rows.iter().map(consumer_of).cloned().collect();
        known.dedup();
        let matching: Vec<&ConsumerId> = known.iter().filter(|id| target.means(id)).collect();
        match matching.as_slice() {
            [] => Err(self.never_ran(target, &known).await?),
            [only] => Ok((*only).clone()),
            several => Err(AdminError::SeveralVersions {
                versions: {
                    let versions = several.iter().map(|id| id.version.to_string());
                    listed(&versions.collect::<Vec<_>>())
                },
                consumer: target.name,
            }),
        }
    }

    /// Why this log has no rows of that name.
    async fn never_ran(
        &self,
        target: Target,
        known: &[ConsumerId],
    ) -> Result<AdminError, AdminError> {
        if let Some(log) = self.other_log(&target.name).await? {
            let consumer = target.name;
            return Ok(AdminError::OtherLog { consumer, log });
        }
        let mut declared = self.code.iter().map(|one| declared_id(&one.declaration));
        let Some(consumer) = declared.find(|consumer| target.means(consumer)) else {
            return Ok(unknown(target, known));
        };
        Ok(match self.takes_over(&consumer).await? {
            Some(former) => AdminError::NotTakenOver { consumer, former },
            None => AdminError::NeverRan { consumer },
        })
    }

    /// The other log that a consumer reads, if it does.
    pub(super) async fn other_log(&self, consumer: &str) -> Result<Option<String>, AdminError> {
        let mut tx = self.read().await?;
        let statements = &self.tables().await?.checkpoints;
        Ok(DB::other_log(statements, &mut tx, consumer).await?)
    }

    /// Finds the consumer that a command names, and creates its rows if no worker has run it.
    pub(crate) async fn find_or_enroll(&self, target: Target) -> Result<ConsumerId, AdminError> {
        let consumer = match self.find(target).await {
            Err(AdminError::NeverRan { consumer } | AdminError::NotTakenOver { consumer, .. }) => {
                consumer
            }
            found => return found,
        };
        let code = WorkerConsumer::new(self.code_of(&consumer)?.clone());
        let held_back = self.held_back().await?.remove(&consumer);
        refuse_held_back(held_back.into_iter().collect())?;
        self.enroll(vec![code], &self.declared()).await?;
        Ok(consumer)
    }

    /// Creates the rows of consumers that have none, after the tables of their read models.
    pub(super) async fn enroll(
        &self,
        consumers: Vec<WorkerConsumer<DB>>,
        declared: &[Arc<str>],
    ) -> Result<(), AdminError> {
        let all: Vec<&WorkerConsumer<DB>> = consumers.iter().collect();
        prepare_before_rows(&self.store, &all).await?;
        let enrolments: Vec<_> = consumers.into_iter().map(|one| one.enrolment).collect();
        let Some(first) = enrolments.first() else {
            return Ok(());
        };
        let settled = self.frontier().await?.settled;
        let mut connection = Borrowed::from(self.store.pool()).await?;
        let tables = self.tables().await?;
        let program = Program {
            names: &tables.names,
            declared,
            enrolments: &enrolments,
            // They have no rows yet that could be stopped.
            release: "",
        };
        let enrolled = DB::enroll(&tables.checkpoints, &mut connection, program, settled).await;
        let enrolled = enrolled.map_err(|error| held_or::<DB>(error, &first.consumer))?;
        let held_back = enrolled.map_err(WorkerError::from)?;
        connection.give_back();
        refuse_held_back(held_back)
    }

    /// Reads all rows; each command begins with it.
    pub(super) async fn rows(&self) -> Result<Vec<Row>, AdminError> {
        let mut tx = self.read().await?;
        self.check_use(&mut tx, Access::Observe).await?;
        Ok(DB::rows(&self.tables().await?.sql, &mut tx).await?)
    }

    /// The rows of one consumer, one for each of its segments.
    pub(super) async fn rows_of(&self, consumer: &ConsumerId) -> Result<Vec<Row>, AdminError> {
        let mut rows = self.rows().await?;
        rows.retain(|row| consumer_of(row) == consumer);
        Ok(rows)
    }

    /// The lowest position of a consumer's rows, and the highest up to which they replay.
    pub(super) async fn positions(&self, consumer: &ConsumerId) -> Result<(i64, i64), AdminError> {
        let rows = self.rows_of(consumer).await?;
        let position = rows.iter().map(|row| row.checkpoint.position).min();
        let replay_to = rows.iter().map(|row| row.replay_to).max();
        let positions = position.zip(replay_to);
        positions.ok_or_else(|| unknown(consumer.into(), &[]))
    }

    /// Begins a transaction to read in: behind a pooler, one statement may take two exchanges.
    pub(super) async fn read(&self) -> Result<Transaction<'static, DB>, AdminError> {
        // Looked up before, since a pool may have only one connection.
        self.tables().await?;
        Ok(begin(self.store.pool(), DB::BEGIN_READ).await?)
    }

    /// The schema of the table of a version, unless its name gives one. Refuses code that names another
    /// table than the one that has the rows.
    pub(super) async fn table_schema(
        &self,
        connection: &mut DB::Connection,
        consumer: &ConsumerId,
        table: &'static Table,
    ) -> Result<Option<Arc<str>>, AdminError> {
        let views = &self.tables().await?.views;
        let here = table_schema::<DB>(connection, self.store.schema()).await?;
        let version = VersionTable::new(table, consumer.version, here.as_deref());
        let schema = schema_of_version::<DB>(views, connection, consumer, &version).await?;
        let version = VersionTable::new(table, consumer.version, schema.as_deref());
        let of = ReadModelTable::new(consumer, &version);
        let refused = refuse_elsewhere::<DB>(views, connection, &of, table).await;
        refused.map_err(WorkerError::from)?;
        Ok(schema)
    }

    /// Checks that this library may work with the tables, and this role too.
    pub(super) async fn check_use(
        &self,
        connection: &mut DB::Connection,
        access: Access,
    ) -> Result<(), AdminError> {
        let tables = self.tables().await?;
        let settings = tables.store.settings();
        Ok(backend::check_use::<DB>(connection, settings, Some(access)).await?)
    }

    /// The declaration of a consumer of this program.
    #[cfg_attr(not(feature = "dashboard"), allow(dead_code))]
    pub(crate) fn declaration(&self, consumer: &ConsumerId) -> Option<&Declaration> {
        self.code_of(consumer).ok().map(|code| &code.declaration)
    }

    /// Whether a consumer of this program can empty its read model.
    #[cfg_attr(not(feature = "dashboard"), allow(dead_code))]
    pub(crate) fn can_reset(&self, consumer: &ConsumerId) -> bool {
        let code = self.code_of(consumer);
        code.is_ok_and(|code| code.consumer.can_reset())
    }

    /// The names of all consumers in the program.
    pub(super) fn declared(&self) -> Vec<Arc<str>> {
        let own = self.code.iter().flat_map(|one| {
            let enrolment = WorkerConsumer::new(one.clone()).enrolment;
            enrolment.names().collect::<Vec<_>>()
        });
        let elsewhere = self.elsewhere.iter().map(|name| name.as_str().into());
        own.chain(elsewhere).collect()
    }

    pub(super) fn code_of(&self, consumer: &ConsumerId) -> Result<&Registered<DB>, AdminError> {
        self.code
            .iter()
            .find(|one| declared_id(&one.declaration) == *consumer)
            .ok_or_else(|| AdminError::NoCode {
                consumer: consumer.clone(),
            })
    }
}

/// Refuses a command for a consumer that is held back.
pub(super) fn refuse_held_back(mut held_back: Vec<HeldBack>) -> Result<(), AdminError> {
    match held_back.pop() {
        Some(held_back) => Err(AdminError::HeldBack { held_back }),
        None => Ok(()),
    }
}

/// The consumer of a row.
pub(super) fn consumer_of(row: &Row) -> &ConsumerId {
    &row.checkpoint.key.consumer
}

/// The consumer of a declaration.
pub(super) fn declared_id(declaration: &Declaration) -> ConsumerId {
    ConsumerId {
        name: Arc::clone(&declaration.name),
        version: declaration.version,
    }
}

/// Converts the error of a statement that waits for a lock.
pub(super) fn held_or<DB: Backend>(error: sqlx::Error, consumer: &ConsumerId) -> AdminError {
    if DB::is_held(&error) {
        AdminError::Held {
            consumer: consumer.clone(),
        }
    } else {
        error.into()
    }
}

/// Why nothing has that name, or that version of it.
pub(super) fn unknown(target: Target, known: &[ConsumerId]) -> AdminError {
    let same_name = known.iter().filter(|id| *id.name == *target.name);
    let versions: Vec<String> = same_name.map(|id| id.version.to_string()).collect();
    match target.version {
        Some(version) if !versions.is_empty() => AdminError::UnknownVersion {
            consumer: target.name,
            version,
            known: listed(&versions),
        },
        _ => {
            let mut names: Vec<String> = known.iter().map(|id| id.name.to_string()).collect();
            names.dedup();
            AdminError::Unknown {
                known: listed_like(&target.name, &names),
                consumer: target.name,
            }
        }
    }
}
