//! The steps of a history, and how they are chosen.

use consumer::{OnError, StartFrom};
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::chain::chain;
use super::command::Command;
use super::scripted::{NAMES, is_transactional};

/// What an event tells its handlers to do. What is called broken here succeeds once the event has
/// been repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Script {
    /// Handles the event.
    Succeed,
    /// Broken: fails this number of attempts, then handles the event.
    FailFirst(u32),
    /// Broken: returns an error.
    Fail,
    /// Broken: panics.
    Panic,
    /// Broken: does not come back.
    Hang,
    /// Broken: writes a row that violates a deferred constraint.
    BreakConstraint,
    /// Broken: leaves a nested transaction open.
    LeakSavepoint,
    /// Broken: commits the worker's transaction.
    Commit,
    /// Handles the event after moving `search_path` for its transaction.
    MoveSearchPath,
    /// Handles the event after changing settings of its session.
    ChangeSession,
    /// Broken: its row cannot be decoded, so that it never comes to a handler.
    Unreadable,
    /// Handles the event, whose type is a new one, in this version: releases differ in what they know of it.
    New(i32),
}

/// What the code of a release knows of the type of [`Script::New`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Nothing.
    Nothing,
    /// Its first version.
    FirstVersion,
    /// Both versions.
    BothVersions,
    /// Any version of it is ignored.
    ToIgnore,
}

impl Script {
    /// Whether the script breaks the rules for handlers, so that its consumer stops whatever its
    /// policy.
    #[must_use]
    pub fn is_violation(self) -> bool {
        matches!(self, Self::LeakSavepoint | Self::Commit)
    }
}

/// How events are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// In a transaction of the store.
    Plain,
    /// As a Rust type.
    Typed,
    /// In the caller's transaction, which commits.
    Committed,
    /// In the caller's transaction, which rolls back.
    RolledBack,
    /// In a savepoint that is rolled back, after which others are appended and committed.
    Savepoint,
    /// In a future that is dropped when it is woken after this number of polls.
    Dropped(usize),
}

/// How an open transaction moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It commits.
    Commit,
    /// It rolls back.
    RollBack,
    /// It is prepared, and moves on once more later.
    Prepare,
}

/// The code of one consumer, as a deploy brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The version of the consumer.
    pub version: u32,
    /// Its aggregate types; empty for all.
    pub scope: Vec<&'static str>,
    /// In how many segments it runs.
    pub segments: u32,
    /// What it does with an event whose attempts are used up.
    pub on_error: OnError,
    /// How many attempts follow the first.
    pub retries: u32,
    /// How many events a batch holds.
    pub batch_size: u32,
    /// Whether its handler takes whole batches, and does not know on which of their events it fails.
    pub in_batches: bool,
    /// Where it starts.
    pub start_from: StartFrom,
    /// What it knows of the type of [`Script::New`].
    pub of_new: Knowledge,
}

/// What ends a worker in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Its future is dropped.
    Drop,
    /// The server ends its connections, and then its future is dropped.
    Terminate,
    /// The server crashes and starts again, and then the future is dropped.
    Server,
}

/// One step of a history. Indices wrap around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Appends events to an aggregate.
    Append(Append, usize, Vec<Script>),
    /// Appends events in a transaction that stays open.
    Open(Vec<Script>),
    /// Moves an open transaction on.
    End(End, usize),
    /// Deploys a release of a consumer; the one before it may stay beside it.
    Deploy(usize, Release, bool),
    /// Runs a worker with all releases until everything settled is handled.
    Run,
    /// Runs two workers at once, one with all releases, and one with another release of a consumer.
    Together(usize, Release),
    /// Runs a worker that ends in the middle, after this number of calls of handlers.
    CrashAfter(usize, Crash),
    /// Tries a consumer's parked events again after this number of calls of its handler by a worker.
    RetryAmid(usize, usize),
    /// Takes steps while a worker runs that has handled everything settled.
    Beside(Vec<Step>),
    /// Adds a column to a table that handlers read.
    Alter,
    /// Gives a command for a consumer; the last number chooses among its events and options.
    Command(Command, usize, usize),
    /// Forgets a consumer's newest version, and makes its checkpoint anew.
    Restart(usize),
    /// Crashes the server and starts it again.
    RestartServer,
    /// Repairs one broken event.
    Repair(usize),
    /// Gives one broken event a payload that succeeds.
    Redact(usize),
    /// Deletes the events that every consumer has passed, except for this number.
    Archive(usize),
    /// Deletes an event at which a consumer has stopped, or before which it waits, and restores it. The number
    /// chooses what happens in between.
    Lose(usize),
    /// For controls: damages the database.
    Damage(Damage),
}

impl Step {
    /// Steps that do less, for a shorter report.
    pub(super) fn simpler(&self) -> Vec<Self> {
        match self {
            Self::Beside(steps) => match &steps[..] {
                [step] => vec![step.clone()],
                _ => without_one(steps).map(Self::Beside).collect(),
            },
            Self::Append(how, aggregate, scripts) if *how != Append::Plain || scripts.len() > 1 => {
                let plain = Self::Append(Append::Plain, *aggregate, scripts.clone());
                let fewer = without_one(scripts).filter(|scripts| !scripts.is_empty());
                let fewer = fewer.map(|scripts| Self::Append(*how, *aggregate, scripts));
                std::iter::once(plain)
                    .filter(|plain| plain != self)
                    .chain(fewer)
                    .collect()
            }
            Self::Open(scripts) if scripts.len() > 1 => {
                without_one(scripts).map(Self::Open).collect()
            }
            Self::Deploy(consumer, release, beside) => release
                .simpler()
                .map(|release| Self::Deploy(*consumer, release, *beside))
                .collect(),
            Self::Together(consumer, release) => {
                vec![Self::Deploy(*consumer, release.clone(), true)]
            }
            _ => Vec::new(),
        }
    }
}

impl Release {
    /// Whether its code knows the type and version of an event.
    pub(super) fn knows(&self, script: Script) -> bool {
        match (script, self.of_new) {
            (Script::New(_), Knowledge::Nothing) => false,
            (Script::New(version), Knowledge::FirstVersion) => version == 1,
            _ => true,
        }
    }

    /// Whether its code passes over the event.
    pub(super) fn ignores(&self, script: Script) -> bool {
        matches!(script, Script::New(_)) && self.of_new == Knowledge::ToIgnore
    }

    fn simpler(&self) -> impl Iterator<Item = Self> {
        let simple = [
            Self {
                segments: 1,
                ..self.clone()
            },
            Self {
                in_batches: false,
                ..self.clone()
            },
            Self {
                batch_size: 100,
                ..self.clone()
            },
            Self {
                start_from: StartFrom::Beginning,
                ..self.clone()
            },
            Self {
                retries: 0,
                ..self.clone()
            },
            Self {
                of_new: Knowledge::BothVersions,
                ..self.clone()
            },
        ];
        let own = self.clone();
        simple.into_iter().filter(move |simple| *simple != own)
    }
}

/// A list without one of its elements, for each of them.
fn without_one<T: Clone>(all: &[T]) -> impl Iterator<Item = Vec<T>> {
    (0..all.len()).map(|left_out| {
        let mut fewer = all.to_vec();
        fewer.remove(left_out);
        fewer
    })
}

/// Damage that must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Raises every checkpoint to the end of the log.
    RaiseCheckpoints,
    /// Writes a handled event into the read model once more.
    HandleTwice,
    /// Drops a parked event.
    DropParked,
    /// Deletes a row of the read model that the library keeps.
    DropRow,
    /// Moves the rows that wait for a release past their unknown events.
    PassUnknown,
    /// Records that another version is active than the view shows.
    ActivateInSecret,
}

/// One step in this number is a chain of steps.
const CHAINS: u32 = 60;

/// The number of consumers, and of the first steps of a history, which are their first releases.
pub const CONSUMERS: usize = NAMES.len();

/// What histories of one database are made of.
#[derive(Clone, Debug)]
pub struct Menu {
    /// Whether transactions may be open beside the worker.
    pub concurrent_writers: bool,
    /// Whether the test has a server of its own, which may crash.
    pub own_server: bool,
    /// Whether scripts may wait for their timeout: once in this number of events, 0 for never.
    pub hangs: usize,
    /// How many steps a history has.
    pub steps: std::ops::Range<usize>,
    /// Kinds of scripts and steps that are left out, by their names in lower case.
    pub without: Vec<String>,
}

impl Menu {
    fn has(&self, name: &str) -> bool {
        !self.without.iter().any(|one| one == name)
    }

    /// Chooses the steps of a history.
    #[must_use]
    pub fn steps(&self, seed: u64) -> Vec<Step> {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(self.steps.clone());
        let mut steps: Vec<Step> = (0..CONSUMERS)
            .map(|consumer| Step::Deploy(consumer, self.release(&mut rng, consumer, 1), false))
            .collect();
        // What a seed means must not depend on what is left out.
        for _ in 0..count {
            if rng.u32(..CHAINS) == 0 {
                let consumer = rng.usize(..CONSUMERS);
                let chain = chain(&mut rng, consumer).into_iter();
                steps.extend(chain.map(|step| self.or_run(step)));
            } else {
                steps.push(self.step(&mut rng));
            }
        }
        steps
    }

    /// A step, or a run if it is not possible here or left out.
    fn or_run(&self, step: Step) -> Step {
        if self.fits(&step) { step } else { Step::Run }
    }

    fn step(&self, rng: &mut Rng) -> Step {
        let consumer = rng.usize(..CONSUMERS);
        let step = match rng.u32(..100) {
            0..28 => Step::Append(how(rng), rng.usize(..6), self.scripts(rng)),
            28..34 => Step::Open(self.scripts(rng)),
            34..40 => Step::End(end(rng), rng.usize(..8)),
            40..47 => {
                let version = rng.u32(1..=2);
                Step::Deploy(consumer, self.release(rng, consumer, version), rng.bool())
            }
            47..60 => Step::Run,
            60..63 => {
                let version = rng.u32(1..=2);
                Step::Together(consumer, self.release(rng, consumer, version))
            }
            63 => Step::RetryAmid(consumer, rng.usize(1..6)),
            64..69 => Step::CrashAfter(rng.usize(1..12), crash(rng)),
            69..70 => Step::RestartServer,
            70..92 => Step::Command(command(rng), consumer, rng.usize(..16)),
            92..96 => Step::Repair(rng.usize(..16)),
            96 => Step::Redact(rng.usize(..16)),
            97 => Step::Restart(consumer),
            98 => Step::Archive(rng.usize(..4)),
            _ => Step::Lose(rng.usize(..16)),
        };
        let may_be_beside = may_be_beside(&step);
        let step = self.or_run(step);
        let alters = rng.u32(..4) == 0;
        match rng.u32(..6) {
            0 if may_be_beside && self.has("beside") => Step::Beside(vec![step]),
            // A statement that was prepared for one event shows at the next that its table has changed.
            1 if alters && self.has("alter") => {
                let event = Step::Append(Append::Plain, rng.usize(..6), vec![Script::Succeed]);
                Step::Beside(vec![event.clone(), Step::Alter, event])
            }
            _ => step,
        }
    }

    /// Whether a step is possible here, and its kind is not left out.
    fn fits(&self, step: &Step) -> bool {
        if let Step::Beside(steps) = step {
            return steps.iter().all(|step| self.fits(step));
        }
        let name = match step {
            Step::Append(Append::Dropped(_), ..) => "dropped",
            Step::Deploy(consumer, release, _) if release.version > 1 => {
                if is_transactional(NAMES[*consumer]) {
                    "versions"
                } else {
                    "versions_outside"
                }
            }
            Step::Open(_) | Step::End(..) => "open",
            Step::Together(..) => "together",
            Step::CrashAfter(..) => "crash",
            Step::RetryAmid(..) => "retry_amid",
            Step::Command(command, ..) => command.name(),
            Step::Restart(_) => "restart",
            Step::Redact(_) => "redact",
            Step::Archive(_) => "archive",
            Step::Lose(_) => "lose",
            _ => "",
        };
        let is_possible = match step {
            Step::Open(_) | Step::End(..) => self.concurrent_writers,
            Step::RestartServer | Step::CrashAfter(_, Crash::Server) => self.own_server,
            _ => true,
        };
        is_possible && self.has(name)
    }

    fn release(&self, rng: &mut Rng, consumer: usize, version: u32) -> Release {
        let scope = match (consumer, rng.u32(..4)) {
            (1, 0) => vec!["Account", "Order"],
            (1, _) => vec!["Account"],
            _ => vec![],
        };
        let segments = 1 << rng.u32(..4);
        let now = rng.u32(..5) == 0;
        Release {
            version,
            scope,
            segments: if self.has("segments") { segments } else { 1 },
            on_error: [OnError::Stop, OnError::Park, OnError::Skip][rng.usize(..3)],
            retries: rng.u32(..3),
            batch_size: [1, 2, 3, 100][rng.usize(..4)],
            in_batches: rng.u32(..4) == 0 && self.has("batches"),
            start_from: if now && self.has("now") {
                StartFrom::Now
            } else {
                StartFrom::Beginning
            },
            of_new: self.of_new(rng),
        }
    }

    fn of_new(&self, rng: &mut Rng) -> Knowledge {
        match rng.u32(..6) {
            0 if self.has("new") => Knowledge::Nothing,
            1 if self.has("new") => Knowledge::FirstVersion,
            2 if self.has("ignore") => Knowledge::ToIgnore,
            _ => Knowledge::BothVersions,
        }
    }

    fn scripts(&self, rng: &mut Rng) -> Vec<Script> {
        let count = rng.usize(1..=4);
        (0..count).map(|_| self.script(rng)).collect()
    }

    fn script(&self, rng: &mut Rng) -> Script {
        let (script, name) = match rng.u32(..100) {
            0..64 => (Script::Succeed, ""),
            64..70 => (Script::New(rng.i32(1..=2)), "new"),
            70..78 => (Script::FailFirst(rng.u32(1..4)), ""),
            78..86 => (Script::Fail, ""),
            86..89 => (Script::Panic, "panic"),
            89..92 => (Script::BreakConstraint, "constraint"),
            92..94 => (Script::LeakSavepoint, "savepoint"),
            94..96 => (Script::Commit, "commit"),
            96..98 => (Script::Unreadable, "unreadable"),
            98 => (Script::ChangeSession, "session"),
            _ => (Script::MoveSearchPath, "search_path"),
        };
        let hangs = self.hangs > 0 && rng.usize(..self.hangs.max(1)) == 0;
        let (script, name) = if hangs {
            (Script::Hang, "hang")
        } else {
            (script, name)
        };
        if self.has(name) {
            script
        } else {
            Script::Succeed
        }
    }
}

fn how(rng: &mut Rng) -> Append {
    match rng.u32(..12) {
        0..4 => Append::Plain,
        4..6 => Append::Typed,
        6..8 => Append::Committed,
        8 => Append::RolledBack,
        9 => Append::Savepoint,
        _ => Append::Dropped(rng.usize(..12)),
    }
}

fn end(rng: &mut Rng) -> End {
    [End::Commit, End::RollBack, End::Prepare][rng.usize(..3)]
}

fn crash(rng: &mut Rng) -> Crash {
    [Crash::Drop, Crash::Terminate, Crash::Server][rng.usize(..3)]
}

fn command(rng: &mut Rng) -> Command {
    let weighted = Command::ALL
        .into_iter()
        .flat_map(|command| std::iter::repeat_n(command, command.weight()));
    let weighted: Vec<Command> = weighted.collect();
    weighted[rng.usize(..weighted.len())]
}

/// Whether a step can be taken while a worker runs.
fn may_be_beside(step: &Step) -> bool {
    match step {
        // A dropped append is looked for in the pool, which a worker would use meanwhile.
        Step::Append(how, ..) => !matches!(how, Append::Dropped(_)),
        Step::Command(command, ..) => command.may_be_beside(),
        Step::Repair(_) | Step::Restart(_) => true,
        _ => false,
    }
}
