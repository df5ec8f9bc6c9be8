//! The names of consumers: which of them no longer have a checkpoint, and how a checkpoint gets another.
//!
//! A consumer that was renamed leaves an alias under its old name, and one that was forgotten leaves a
//! tombstone. No checkpoint is created under either, so that a process with older code cannot repeat effects.

use std::fmt;
use std::sync::Arc;

use super::StoreSettings;
use super::driver::Driver;
use super::rows::{ConsumerId, Enrolment};
use super::sql::statements;
use crate::contract::Formerly;

/// The consumers with a checkpoint in this log.
const NAMES: &str = "
    SELECT DISTINCT p.consumer, p.version, p.scope FROM {progress} AS p
     WHERE NOT EXISTS (SELECT 1 FROM {logs} AS l WHERE l.consumer = p.consumer AND l.log <> '{log}')";

const RETIRED: &str = "
    SELECT consumer, version, successor FROM {retired} WHERE log = '{log}'";

/// In any log.
const IS_TAKEN: &str = "
    SELECT EXISTS (SELECT 1 FROM {progress} WHERE consumer = $1) AS taken";

/// The rows of all versions, locked.
const LOCK_ALL: &str = "
    SELECT slice_from FROM {progress} WHERE consumer = $1
     -- In this order, so that two operators cannot wait for each other.
     ORDER BY version, slice_from {for update}";

/// Removes the traces of a forgotten consumer of that name.
const CLEAR_HANDLED: &str = "DELETE FROM {handled} WHERE consumer = $1";
const CLEAR_WORKERS: &str = "DELETE FROM {workers} WHERE consumer = $1";
const CLEAR_PENDING: &str = "DELETE FROM {pending} WHERE consumer = $1";
const CLEAR_LOG: &str = "DELETE FROM {logs} WHERE consumer = $1";
const CLEAR_ALIAS: &str = "
    DELETE FROM {retired} WHERE log = '{log}' AND consumer = $1";

const MOVE_PROGRESS: &str = "UPDATE {progress} SET consumer = $2 WHERE consumer = $1";
const MOVE_WORKERS: &str = "UPDATE {workers} SET consumer = $2 WHERE consumer = $1";
const MOVE_PARKED: &str = "UPDATE {parked} SET consumer = $2 WHERE consumer = $1";
const MOVE_PENDING: &str = "UPDATE {pending} SET consumer = $2 WHERE consumer = $1";
const MOVE_HANDLED: &str = "UPDATE {handled} SET consumer = $2 WHERE consumer = $1";
const MOVE_ACTIVE: &str = "UPDATE {active} SET consumer = $2 WHERE consumer = $1";
const MOVE_TABLES: &str = "UPDATE {read models} SET consumer = $2 WHERE consumer = $1";
const MOVE_LOG: &str = "UPDATE {logs} SET consumer = $2 WHERE consumer = $1";
/// Its forgotten versions.
const MOVE_TOMBSTONES: &str = "
    UPDATE {retired} SET consumer = $2 WHERE log = '{log}' AND consumer = $1";
/// Names from before point to the present one.
const MOVE_ALIASES: &str = "
    UPDATE {retired} SET successor = $2 WHERE log = '{log}' AND successor = $1";

/// Retires version `$2` of the name `$1`, or all versions with 0.
const RETIRE: &str = "
    INSERT INTO {retired} (log, consumer, version, successor) VALUES ('{log}', $1, $2, $3)
    ON CONFLICT (log, consumer, version) DO UPDATE SET successor = excluded.successor";

/// A name whose last version is forgotten is retired as a whole.
pub(super) const RETIRE_FORGOTTEN: &str = "
    INSERT INTO {retired} (log, consumer, version)
    SELECT '{log}', $1,
           CASE WHEN EXISTS (SELECT 1 FROM {progress} WHERE consumer = $1 AND version <> $2)
                THEN $2 ELSE 0 END
     WHERE true
    ON CONFLICT (log, consumer, version) DO UPDATE SET successor = NULL";

const LIFT: &str = "
    DELETE FROM {retired}
     WHERE log = '{log}' AND consumer = $1 AND ($2 = 0 OR version = 0 OR version = $2)";

statements! {
    /// The statements about names, with those of the mapping.
    pub NameStatements for DB: Renames {
        names: NAMES,
        retired: RETIRED,
        lock_names: DB::LOCK_NAMES,
        is_taken: IS_TAKEN,
        lock_all: LOCK_ALL,
        is_working: DB::IS_WORKING,
        clear_handled: CLEAR_HANDLED,
        clear_workers: CLEAR_WORKERS,
        clear_pending: CLEAR_PENDING,
        clear_log: CLEAR_LOG,
        clear_alias: CLEAR_ALIAS,
        move_progress: MOVE_PROGRESS,
        move_workers: MOVE_WORKERS,
        move_parked: MOVE_PARKED,
        move_pending: MOVE_PENDING,
        move_handled: MOVE_HANDLED,
        move_active: MOVE_ACTIVE,
        move_tables: MOVE_TABLES,
        move_log: MOVE_LOG,
        move_tombstones: MOVE_TOMBSTONES,
        move_aliases: MOVE_ALIASES,
        retire: RETIRE,
        lift: LIFT,
    }
}

/// The requirements of renames on a database.
pub trait Renames: Driver {
    /// Keeps all checkpoints from being created for the rest of the transaction.
    const LOCK_NAMES: &'static str;

    /// Whether a process handles a batch of consumer `$1` without a claim, as `working`.
    const IS_WORKING: &'static str;

    /// Renders the statements.
    fn name_statements(settings: &StoreSettings) -> NameStatements {
        NameStatements::new::<Self>(settings)
    }
}

/// The consumers of a program, or some of them, whose checkpoints are to be created.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    /// The statements about names.
    pub(crate) names: &'a NameStatements,
    /// The names of all consumers in the program.
    pub(crate) declared: &'a [Arc<str>],
    /// The consumers.
    pub(crate) enrolments: &'a [Enrolment],
    /// The build of the program.
    pub(crate) release: &'a str,
}

/// Why a consumer is held back; in [`ConsumerState::HeldBack`](crate::ConsumerState).
///
/// It handles nothing until an operator decides where it begins. Its message names the commands to do so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldBack {
    /// The consumer.
    pub consumer: ConsumerId,
    /// The reason.
    pub reason: HeldBackReason,
}

/// The reason in a [`HeldBack`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldBackReason {
    /// Its checkpoint has another name now.
    Renamed {
        /// The name that it has now.
        to: String,
    },
    /// Its checkpoint was forgotten.
    Forgotten,
    /// It is new, and these have the same scope and are no longer in the program: it may be one of them
    /// under another name.
    Detached {
        /// Their names.
        names: Vec<String>,
    },
    /// It takes over from its former name as soon as a batch of it has ended in another process.
    FormerBusy {
        /// The former name.
        former: String,
    },
    /// Its former name has no checkpoint any more.
    FormerGone {
        /// The former name.
        former: String,
        /// The name that its checkpoint has now; `None` if it was forgotten.
        to: Option<String>,
    },
    /// It has a checkpoint, and so has its former name.
    BothExist {
        /// The former name.
        former: String,
    },
}

impl HeldBack {
    /// A consumer whose checkpoint has its former name still.
    pub(crate) fn until_free(consumer: &ConsumerId, former: String) -> Self {
        Self {
            consumer: consumer.clone(),
            reason: HeldBackReason::FormerBusy { former },
        }
    }

    /// The name that its checkpoint has now, if that is why.
    pub(crate) fn later_name(&self) -> Option<&str> {
        match &self.reason {
            HeldBackReason::Renamed { to } => Some(to),
            _ => None,
        }
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.consumer.name;
        f.write_str("held back: ")?;
        match &self.reason {
            HeldBackReason::Renamed { to } => write!(
                f,
                "it was renamed to `{to}`; `rename {to} {name}` takes that back, and `start-new {name}` starts another consumer of this name"
            ),
            HeldBackReason::Forgotten => write!(
                f,
                "it was forgotten; `start-new {name} --of-version {}` starts it again, with what it handled before as a replay",
                self.consumer.version
            ),
            HeldBackReason::Detached { names } => {
                let former = names.first().map_or("", String::as_str);
                let several = names.join("`, `");
                let are = if names.len() > 1 { "are" } else { "is" };
                write!(
                    f,
                    "it is new, and `{several}` of the same scope {are} no longer in this program; if it was renamed, write `formerly = \"{former}\"` or run `rename {former} {name}`; if not, write `formerly = none` or run `start-new {name}`"
                )
            }
            HeldBackReason::FormerBusy { former } => write!(
                f,
                "it takes over from `{former}` when another process finishes its batch"
            ),
            HeldBackReason::FormerGone {
                former,
                to: Some(to),
            } => write!(
                f,
                "its former name `{former}` was renamed to `{to}`; write `formerly = \"{to}\"`, or run `rename {to} {name}` or `start-new {name}`"
            ),
            HeldBackReason::FormerGone { former, to: None } => write!(
                f,
                "its former name `{former}` was forgotten; write `formerly = none` or run `start-new {name}`"
            ),
            HeldBackReason::BothExist { former } => write!(
                f,
                "it has a checkpoint, and so has its former name `{former}`; forget one of the two, or remove `formerly`"
            ),
        }
    }
}

/// A name under which no checkpoint is created.
#[derive(Clone, Debug)]
pub(crate) struct Retired {
    name: String,
    /// One version, or all.
    version: Option<u32>,
    /// The name that the checkpoint has now; `None` if it was forgotten.
    successor: Option<String>,
}

impl Retired {
    fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let version: i32 = DB::read(row, "version")?;
        Ok(Self {
            name: DB::read(row, "consumer")?,
            version: u32::try_from(version).ok().filter(|version| *version > 0),
            successor: DB::read(row, "successor")?,
        })
    }

    /// Whether it is about a consumer.
    fn is(&self, consumer: &ConsumerId) -> bool {
        let is_version = |version| version == consumer.version;
        self.name == *consumer.name && self.version.is_none_or(is_version)
    }

    fn reason(&self) -> HeldBackReason {
        match &self.successor {
            Some(to) => HeldBackReason::Renamed { to: to.clone() },
            None => HeldBackReason::Forgotten,
        }
    }
}

/// Reads the names under which no checkpoint is created.
pub(crate) async fn read_retired<DB: Renames>(
    sql: &NameStatements,
    connection: &mut DB::Connection,
) -> Result<Vec<Retired>, sqlx::Error> {
    let rows = sql.retired.fetch_as_script::<DB>(connection).await?;
    rows.iter().map(Retired::decode::<DB>).collect()
}

/// Like [`read_retired`], in the caller's transaction, until whose end no other name is retired.
pub(crate) async fn lock_retired<DB: Renames>(
    sql: &NameStatements,
    tx: &mut DB::Connection,
) -> Result<Vec<Retired>, sqlx::Error> {
    sql.lock_names.fetch_as_script::<DB>(tx).await?;
    read_retired::<DB>(sql, tx).await
}

/// Why a consumer without rows has none.
pub(crate) fn held_back_by(retired: &[Retired], consumer: &ConsumerId) -> Option<HeldBack> {
    let by = retired.iter().find(|one| one.is(consumer))?;
    Some(HeldBack {
        consumer: consumer.clone(),
        reason: by.reason(),
    })
}

/// Whether a declared consumer may start, and under which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It runs, with a new checkpoint if it has none.
    Run,
    /// The checkpoint of this name becomes its own first.
    TakeOver(String),
    /// It is held back.
    Not(HeldBack),
}

/// The names of a log.
#[derive(Debug)]
pub(crate) struct Names {
    /// The consumers with a checkpoint, and the scopes of these.
    known: Vec<(ConsumerId, String)>,
    retired: Vec<Retired>,
}

impl Names {
    pub(crate) async fn read<DB: Renames>(
        sql: &NameStatements,
        connection: &mut DB::Connection,
    ) -> Result<Self, sqlx::Error> {
        let rows = sql.names.fetch_as_script::<DB>(connection).await?;
        let known = |row: &DB::Row| Ok((ConsumerId::decode::<DB>(row)?, DB::read(row, "scope")?));
        Ok(Self {
            known: rows.iter().map(known).collect::<Result<_, sqlx::Error>>()?,
            retired: read_retired::<DB>(sql, connection).await?,
        })
    }

    /// Whether a name was that of a renamed or forgotten consumer, or of a version of one.
    #[cfg(feature = "cli")]
    pub(crate) fn is_retired(&self, name: &str) -> bool {
        self.retired.iter().any(|one| one.name == name)
    }

    fn has(&self, name: &str) -> bool {
        self.known.iter().any(|(known, _)| *known.name == *name)
    }

    /// Decides about a consumer of a program that declares these names.
    pub(crate) fn start(&self, of: &Enrolment, declared: &[Arc<str>]) -> Start {
        let not = |reason| {
            Start::Not(HeldBack {
                consumer: of.consumer.clone(),
                reason,
            })
        };
        let former = of.formerly.former().filter(|former| self.has(former));
        if self.known.iter().any(|(known, _)| *known == of.consumer) {
            let both = |former: &str| HeldBackReason::BothExist {
                former: former.to_owned(),
            };
            return former.map_or(Start::Run, |former| not(both(former)));
        }
        if let Some(held_back) = held_back_by(&self.retired, &of.consumer) {
            return Start::Not(held_back);
        }
        if self.has(&of.consumer.name) {
            // Another version.
            return Start::Run;
        }
        match former {
            Some(former) => Start::TakeOver(former.to_owned()),
            None => self.without_former(of, declared).map_or(Start::Run, not),
        }
    }

    /// Why a consumer must not begin anew whose name, and former name, have no checkpoint.
    fn without_former(&self, of: &Enrolment, declared: &[Arc<str>]) -> Option<HeldBackReason> {
        if of.formerly == Formerly::None {
            return None;
        }
        if let Some(former) = of.formerly.former() {
            let whole = |one: &&Retired| one.name == former && one.version.is_none();
            if let Some(gone) = self.retired.iter().find(whole) {
                let is_own = gone.successor.as_deref() == Some(&*of.consumer.name);
                return (!is_own).then(|| HeldBackReason::FormerGone {
                    former: former.to_owned(),
                    to: gone.successor.clone(),
                });
            }
        }
        let is_detached = |known: &ConsumerId| !declared.contains(&known.name);
        let of_scope = self.known.iter().filter(|(_, scope)| **scope == *of.scope);
        let mut names: Vec<String> = of_scope
            .filter(|(known, _)| is_detached(known))
            .map(|(known, _)| known.name.to_string())
            .collect();
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then_some(HeldBackReason::Detached { names })
    }

    /// Why a checkpoint must not get a name that none has; `None` if it may.
    fn obstacle(&self, from: &str, to: &str) -> Option<HeldBackReason> {
        let whole = |one: &&Retired| one.name == to && one.version.is_none();
        let retired = self.retired.iter().find(whole)?;
        (retired.successor.as_deref() != Some(from)).then(|| retired.reason())
    }
}

/// How a rename ended.
#[derive(Debug)]
pub(crate) enum Renamed {
    /// The checkpoint has the new name, once the transaction is committed.
    Done,
    /// No checkpoint has the old name.
    Missing,
    /// One has the new name already.
    Taken,
    /// The new name was that of another consumer.
    Retired(HeldBack),
    /// A process handles a batch outside of its claim.
    Busy,
}

/// Gives the checkpoint of a consumer, with everything that belongs to it, another name in the caller's
/// transaction, and leaves an alias. Waits for the batches in progress.
pub(crate) async fn rename<DB: Renames>(
    sql: &NameStatements,
    tx: &mut DB::Connection,
    from: &str,
    to: &str,
) -> Result<Renamed, sqlx::Error> {
    // First, so that no checkpoint is created under either name meanwhile.
    sql.lock_names.fetch_as_script::<DB>(tx).await?;
    if let Some(refused) = refuse_rename::<DB>(sql, tx, from, to).await? {
        return Ok(refused);
    }
    sql.lock_all.on::<DB>().bind(from).fetch_all(tx).await?;
    let is_working = sql.is_working.on::<DB>().bind(from);
    if is_working.fetch_value(tx, "working").await? {
        return Ok(Renamed::Busy);
    }
    let clear = [
        &sql.clear_handled,
        &sql.clear_workers,
        &sql.clear_pending,
        &sql.clear_log,
        &sql.clear_alias,
    ];
    for clear in clear {
        clear.on::<DB>().bind(to).execute(tx).await?;
    }
    let moves = [
        &sql.move_progress,
        &sql.move_workers,
        &sql.move_parked,
        &sql.move_pending,
        &sql.move_handled,
        &sql.move_active,
        &sql.move_tables,
        &sql.move_log,
        &sql.move_tombstones,
        &sql.move_aliases,
    ];
    for statement in moves {
        let statement = statement.on::<DB>().bind(from).bind(to);
        statement.execute(tx).await?;
    }
    let alias = sql.retire.on::<DB>().bind(from).bind(0_i32).bind(Some(to));
    alias.execute(tx).await?;
    Ok(Renamed::Done)
}

/// Why a rename cannot be done, apart from a batch in progress.
pub(crate) async fn refuse_rename<DB: Renames>(
    sql: &NameStatements,
    tx: &mut DB::Connection,
    from: &str,
    to: &str,
) -> Result<Option<Renamed>, sqlx::Error> {
    let names = Names::read::<DB>(sql, tx).await?;
    if !names.has(from) {
        return Ok(Some(Renamed::Missing));
    }
    let is_taken = sql.is_taken.on::<DB>().bind(to);
    if is_taken.fetch_value(tx, "taken").await? {
        return Ok(Some(Renamed::Taken));
    }
    Ok(names.obstacle(from, to).map(|reason| {
        let (name, version) = (to.into(), 1);
        let consumer = ConsumerId { name, version };
        Renamed::Retired(HeldBack { consumer, reason })
    }))
}

/// Lets a checkpoint be created under a name again, for one version or all; returns whether none could.
pub(crate) async fn lift<DB: Renames>(
    sql: &NameStatements,
    tx: &mut DB::Connection,
    name: &str,
    version: Option<u32>,
) -> Result<bool, sqlx::Error> {
    let version = version.map_or(0, |version| i32::try_from(version).unwrap_or(-1));
    let lift = sql.lift.on::<DB>().bind(name).bind(version);
    Ok(lift.execute(tx).await? > 0)
}
