//! A consumer that does what its events tell it to.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::{
    BatchError, Consumer, Context, EventFormat, Formerly, HandlerError, PersistedEvent, Registered,
    Settings,
};
use serde::{Deserialize, Serialize};
use sqlx::Connection as _;
use tokio::sync::Semaphore;

use super::backend::{HistoryBackend, Span};
use super::folded::{self, FOLD};
use super::step::{Knowledge, Release, Script};

/// A typed event with a script.
#[derive(consumer::Event, Serialize, Deserialize, Clone, Debug)]
#[event(aggregate = "Account")]
pub(super) struct Scripted {
    /// What its handlers do.
    pub(super) script: Script,
}

/// The type of [`Script::New`].
pub(super) const NEW_TYPE: &str = "New";

/// One call of a handler.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) consumer: &'static str,
    pub(super) version: u32,
    pub(super) position: i64,
    pub(super) is_replay: bool,
    pub(super) attempt: u32,
}

/// The consumer, its version, and the position of an event.
pub(super) type Handled = (&'static str, u32, i64);

/// What happened outside the database.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// All calls of handlers during the step.
    pub(super) calls: Vec<Call>,
    /// Effects of first deliveries: the consumer and the position.
    pub(super) effects: Vec<(&'static str, i64)>,
    /// What the consumer that ignores its transaction has handled, in batches that did not fail.
    pub(super) handled: Vec<Handled>,
    /// What it may handle again, since the checkpoint after it may not have been saved.
    pub(super) repeatable: HashSet<Handled>,
    /// What it had handled before a rebuild that left it, and handles in order again.
    pub(super) before_rebuild: HashSet<Handled>,
    /// Whether that is everything that it handles now.
    pub(super) is_crashing: bool,
    /// The events that are not broken any more.
    pub(super) repaired: HashSet<i64>,
    /// The events whose payloads from before their redaction no handler may be given any more.
    redacted: HashSet<i64>,
    /// A handler that was given such a payload all the same.
    leak: Option<String>,
}

impl Outside {
    /// Forgets what a version has handled.
    pub(super) fn forget(&mut self, id: (&'static str, u32)) {
        let is_other = |event: &Handled| (event.0, event.1) != id;
        self.handled.retain(is_other);
        self.before_rebuild.retain(is_other);
    }
}

/// The world that handlers act on, besides their transaction.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) outside: Mutex<Outside>,
    fuse: Mutex<Option<Arc<Fuse>>>,
}

/// Ends with one of the next calls of handlers.
#[derive(Debug)]
pub(super) struct Fuse {
    /// How many calls are left.
    calls: AtomicUsize,
    /// The consumer whose calls count; `None` for all.
    of: Option<&'static str>,
    ended: Semaphore,
}

impl Fuse {
    pub(super) fn new(calls: usize, of: Option<&'static str>) -> Self {
        Self {
            calls: AtomicUsize::new(calls),
            of,
            ended: Semaphore::new(0),
        }
    }

    /// Waits until the last of the calls has begun.
    pub(super) async fn ended(&self) {
        // Which is when it is closed.
        let _ = self.ended.acquire().await;
    }

    fn count(&self, consumer: &str) {
        let counts = self.of.is_none_or(|of| of == consumer);
        if counts && self.calls.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.ended.close();
        }
    }
}

impl World {
    pub(super) fn set_fuse(&self, fuse: Fuse) -> Arc<Fuse> {
        let fuse = Arc::new(fuse);
        *self.fuse.lock().unwrap() = Some(Arc::clone(&fuse));
        fuse
    }

    pub(super) fn remove_fuse(&self) {
        *self.fuse.lock().unwrap() = None;
    }

    /// From now on until the next work begins, nothing tells whether a checkpoint is saved.
    pub(super) fn crash(&self) {
        self.outside.lock().unwrap().is_crashing = true;
    }

    /// What has been handled of a version since the work began may be handled again.
    pub(super) fn allow_repeats(&self, name: &'static str, version: u32) {
        let mut outside = self.outside.lock().unwrap();
        let outside = &mut *outside;
        let of_version = |call: &&Call| (call.consumer, call.version) == (name, version);
        let calls = outside.calls.iter().filter(of_version);
        let repeatable = calls.map(|call| (name, version, call.position));
        outside.repeatable.extend(repeatable);
    }

    /// Everything that has been handled of a version may be handled again.
    pub(super) fn allow_repeats_of_all(&self, name: &'static str, version: u32) {
        let mut outside = self.outside.lock().unwrap();
        let outside = &mut *outside;
        let of_version = |event: &&Handled| (event.0, event.1) == (name, version);
        let handled = outside.handled.iter().filter(of_version);
        let handled: Vec<Handled> = handled.copied().collect();
        outside.repeatable.extend(&handled);
        outside.before_rebuild.extend(handled);
    }

    /// Notes what a batch that did not fail has handled.
    fn handled(&self, events: impl Iterator<Item = Handled>) {
        let mut outside = self.outside.lock().unwrap();
        for event in events {
            outside.handled.push(event);
            if outside.is_crashing {
                outside.repeatable.insert(event);
            }
        }
    }

    /// Notes a call.
    fn note(&self, call: Call) {
        let consumer = call.consumer;
        self.outside.lock().unwrap().calls.push(call);
        let fuse = self.fuse.lock().unwrap().clone();
        if let Some(fuse) = fuse {
            fuse.count(consumer);
        }
    }

    /// From now on, the old payloads of these events must not come to any handler.
    pub(super) fn forbid_old_payloads(&self, of: impl IntoIterator<Item = i64>) {
        self.outside.lock().unwrap().redacted.extend(of);
    }

    /// A handler that was given an old payload.
    pub(super) fn leak(&self) -> Option<String> {
        self.outside.lock().unwrap().leak.clone()
    }

    /// Checks that an event is not one from before its redaction, which gave it a payload that succeeds.
    fn check_redaction(&self, consumer: &str, event: &PersistedEvent) {
        let position = event.global_position;
        let mut outside = self.outside.lock().unwrap();
        let script = serde_json::from_slice::<Scripted>(&event.payload);
        let is_new = script.is_ok_and(|event| event.script == Script::Succeed);
        if outside.redacted.contains(&position) && !is_new {
            outside.leak = Some(format!("{consumer} was given event {position}"));
        }
    }

    fn is_repaired(&self, position: i64) -> bool {
        self.outside.lock().unwrap().repaired.contains(&position)
    }
}

/// The names of the consumers. The third one ignores its transaction (R5), and the rows of the last one
/// are kept by the library.
pub(super) const NAMES: [&str; 4] = ["users", "accounts", "hooks", "totals"];

/// Whether what a consumer writes is part of the worker's transaction.
pub(super) fn is_transactional(name: &str) -> bool {
    name != NAMES[2]
}

/// Whether the handler of a consumer runs SQL in the worker's transaction.
pub(super) fn runs_sql(name: &str) -> bool {
    name == NAMES[0] || name == NAMES[1]
}

/// How long a handler may take. Only handlers that hang reach it.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A release of a consumer, as code.
pub(super) struct ScriptedConsumer {
    name: &'static str,
    settings: Settings,
    in_batches: bool,
    of_new: Knowledge,
    world: Arc<World>,
}

impl ScriptedConsumer {
    /// The code of a release.
    pub(super) fn registered<DB: HistoryBackend>(
        name: &'static str,
        release: &Release,
        world: &Arc<World>,
    ) -> Registered<DB> {
        let registered = if name == FOLD {
            folded::registered(release, world)
        } else {
            Registered::new(Self::new(name, release, world))
        };
        let mut registered = registered.version(release.version);
        registered.declaration.scope = release.scope.iter().map(|&kind| kind.into()).collect();
        registered
    }

    pub(super) fn new(name: &'static str, release: &Release, world: &Arc<World>) -> Self {
        let settings = Settings::default()
            .segments(release.segments)
            .on_error(release.on_error)
            .retries(release.retries)
            .batch_size(release.batch_size)
            .backoff(Duration::from_millis(1), Duration::from_millis(2))
            .start_from(release.start_from)
            .handler_timeout(TIMEOUT);
        Self {
            name,
            settings,
            in_batches: release.in_batches,
            of_new: release.of_new,
            world: Arc::clone(world),
        }
    }

    /// Whether the code knows a format.
    pub(super) fn knows_format(&self, format: EventFormat<'_>) -> bool {
        let is_known = match self.of_new {
            Knowledge::Nothing => false,
            Knowledge::FirstVersion => format.event_version == 1,
            Knowledge::BothVersions | Knowledge::ToIgnore => true,
        };
        is_known || format.event_type != NEW_TYPE
    }

    /// Whether the code passes over an event, as that of `ignore = ["New"]` does.
    pub(super) fn ignores(&self, event: &PersistedEvent) -> bool {
        self.of_new == Knowledge::ToIgnore && &*event.event_type == NEW_TYPE
    }

    /// Begins to handle an event.
    pub(super) fn begin(&self, cx: &Context, event: &PersistedEvent) {
        let (name, position) = (self.name, event.global_position);
        self.world.check_redaction(name, event);
        self.world.note(Call {
            consumer: name,
            version: cx.version(),
            position,
            is_replay: cx.is_replay(),
            attempt: cx.attempt(),
        });
        if !cx.is_replay() {
            let world = Arc::clone(&self.world);
            cx.after_commit(async move {
                let mut outside = world.outside.lock().unwrap();
                outside.effects.push((name, position));
            });
        }
    }

    /// Plays a script where there is no SQL to run.
    pub(super) fn fold(&self, cx: &Context, event: &PersistedEvent) -> Result<(), HandlerError> {
        let script = serde_json::from_slice::<Scripted>(&event.payload)?.script;
        match script {
            _ if self.world.is_repaired(event.global_position) => Ok(()),
            Script::FailFirst(attempts) if cx.attempt() <= attempts => Err("fails at first".into()),
            Script::Fail | Script::Hang | Script::BreakConstraint => Err("fails".into()),
            Script::Panic => panic!("{SCRIPTED_PANIC}"),
            _ => Ok(()),
        }
    }

    async fn play<DB: HistoryBackend>(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let position = event.global_position;
        let script = serde_json::from_slice::<Scripted>(&event.payload)?.script;
        let writes = is_transactional(self.name);
        match script {
            Script::MoveSearchPath if writes => DB::change_session(tx, Span::Transaction).await?,
            Script::ChangeSession if writes => DB::change_session(tx, Span::Session).await?,
            _ if self.world.is_repaired(position) => {}
            Script::FailFirst(attempts) if cx.attempt() <= attempts => {
                return Err("fails at first".into());
            }
            Script::Fail => return Err("fails".into()),
            Script::Panic => panic!("{SCRIPTED_PANIC}"),
            Script::Hang => std::future::pending().await,
            Script::BreakConstraint => {
                DB::execute_sql(tx, "INSERT INTO history_child VALUES (1)").await?;
            }
            Script::LeakSavepoint if writes => {
                let nested = tx.begin().await?;
                std::mem::forget(nested);
            }
            Script::Commit if writes => {
                let _ = DB::execute_sql(tx, "COMMIT").await;
                return Ok(());
            }
            _ => {}
        }
        if writes {
            DB::peek(tx).await?;
            let row = format!("('{}', {}, {position})", self.name, cx.version());
            let insert = format!(
                "INSERT INTO {}history_applied (consumer, version, position) VALUES {row}",
                DB::HOME
            );
            DB::execute_sql(tx, &insert).await?;
        }
        Ok(())
    }
}

impl ScriptedConsumer {
    /// Whether the handler has committed the worker's transaction with an event. On Postgres, statements
    /// after it, including those for later events of the batch, commit on their own.
    fn has_committed(&self, event: &PersistedEvent) -> bool {
        let script = serde_json::from_slice::<Scripted>(&event.payload);
        is_transactional(self.name)
            && script.is_ok_and(|event| event.script == Script::Commit)
            && !self.world.is_repaired(event.global_position)
    }

    /// Plays the events of a batch one after the other; returns how many it handled.
    async fn play_all<DB: HistoryBackend>(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> Result<usize, BatchError> {
        if self.in_batches {
            cx.enter_several();
        }
        for (index, event) in events.iter().enumerate() {
            if index > 0 && cx.should_stop(index) {
                return Ok(index);
            }
            if !self.in_batches {
                cx.enter(event.global_position);
            }
            let handled = Consumer::<DB>::handle(self, cx, tx, event).await;
            handled.map_err(|error| {
                if self.in_batches {
                    // It does not know which of them failed.
                    BatchError::within(0, events.len(), error)
                } else {
                    BatchError::at(index, error)
                }
            })?;
            if self.has_committed(event) {
                return Ok(index + 1);
            }
        }
        Ok(events.len())
    }
}

/// What a script's panic says.
pub(super) const SCRIPTED_PANIC: &str = "this panic is part of a history";

impl<DB: HistoryBackend> Consumer<DB> for ScriptedConsumer {
    fn name(&self) -> &str {
        self.name
    }

    fn formerly(&self) -> Formerly {
        Formerly::None
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    fn knows(&self, format: EventFormat<'_>) -> bool {
        self.knows_format(format)
    }

    fn uses_transaction(&self) -> bool {
        is_transactional(self.name)
    }

    fn can_reset(&self) -> bool {
        true
    }

    async fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        if self.ignores(event) {
            return Ok(());
        }
        self.begin(cx, event);
        self.play::<DB>(cx, tx, event).await
    }

    async fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> Result<usize, BatchError> {
        if is_transactional(self.name) {
            let clean = DB::check_session(tx).await;
            clean.map_err(|error| BatchError::within(0, events.len(), error))?;
        }
        let handled = self.play_all::<DB>(cx, tx, events).await?;
        if !is_transactional(self.name) {
            let events = events.iter().take(handled);
            let events = events.filter(|event| !self.ignores(event));
            let event = |event: &PersistedEvent| (self.name, cx.version(), event.global_position);
            self.world.handled(events.map(event));
        }
        Ok(handled)
    }

    async fn reset(&self, cx: &Context, tx: &mut DB::Connection) -> Result<(), HandlerError> {
        let (name, version) = (self.name, cx.version());
        let delete = format!(
            "DELETE FROM {}history_applied WHERE consumer = '{name}' AND version = {version}",
            DB::HOME
        );
        DB::execute_sql(tx, &delete).await?;
        self.world.outside.lock().unwrap().forget((name, version));
        Ok(())
    }
}
