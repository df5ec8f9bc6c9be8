//! The reference model: what may and what must have become of every event.

use std::collections::{BTreeMap, BTreeSet};

use consumer::{OnError, StartFrom, aggregate_slice};

use super::folded::FOLD;
use super::scripted::{Call, NAMES, is_transactional, runs_sql};
use super::step::{Release, Script};

/// What is wrong, in words.
pub(super) type Verdict<T = ()> = Result<T, String>;

/// One version of a consumer.
pub(super) type Id = (&'static str, u32);

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) kind: String,
    pub(super) aggregate: String,
    pub(super) script: Script,
}

/// A checkpoint row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: Id,
    pub(super) slices: std::ops::Range<u16>,
    pub(super) position: i64,
    pub(super) state: String,
    pub(super) failed_position: Option<i64>,
    /// The event before which it waits for a release that knows it.
    pub(super) unknown_position: Option<i64>,
    pub(super) scope: Vec<String>,
}

impl Row {
    /// The event at which it is stopped, or before which it waits for another release.
    pub(super) fn halted_at(&self) -> Option<i64> {
        match self.state.as_str() {
            "stopped" => self.failed_position,
            "running" => self.unknown_position,
            _ => None,
        }
    }

    /// Whether it had stopped as another row has, which it is or has become by a split.
    fn has_stopped_with(&self, other: &Self) -> bool {
        let is_whole = self.id == other.id && self.slices.contains(&other.slices.start);
        let place = |row: &Self| (row.position, row.failed_position);
        is_whole && self.state == "stopped" && place(self) == place(other)
    }

    /// Whether an aggregate type is in its scope.
    pub(super) fn contains(&self, kind: &str) -> bool {
        is_in_scope(&self.scope, kind)
    }
}

/// What the database shows between two steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    pub(super) log: BTreeMap<i64, Logged>,
    pub(super) rows: Vec<Row>,
    /// The durable frontier.
    pub(super) frontier: i64,
    pub(super) parked: BTreeSet<(Id, i64)>,
    /// The versions that are recorded as the active ones.
    pub(super) active: BTreeMap<&'static str, u32>,
    /// The events in the read models, those of an aggregate in the order in which they were handled.
    pub(super) applied: Vec<(Id, i64)>,
    /// Those that a consumer handled before a rebuild that left them, and handles in order again.
    pub(super) before_rebuild: BTreeSet<(Id, i64)>,
    pub(super) tables: Tables,
}

/// The read model that the library keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// The rows of each version.
    pub(super) of_versions: BTreeMap<u32, Vec<String>>,
    /// The rows in the view, if there is one.
    pub(super) view: Option<Vec<String>>,
}

impl Observed {
    /// The active version of a consumer: the oldest one unless another is recorded.
    pub(super) fn active(&self, name: &str) -> Option<u32> {
        let own = self.rows.iter().filter(|row| row.id.0 == name);
        let oldest = own.map(|row| row.id.1).min();
        self.active.get(name).copied().or(oldest)
    }

    /// The rows of one version of a consumer.
    pub(super) fn rows_of(&self, id: Id) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.id == id)
    }

    /// Where a version that starts now has started, as far as its work shows.
    fn first_after(&self, id: Id, calls: &[Call]) -> i64 {
        let called = calls
            .iter()
            .filter(|call| (call.consumer, call.version) == id);
        let first = called.map(|call| call.position - 1).min();
        let position = self.rows_of(id).map(|row| row.position).min();
        first.or(position).unwrap_or(0)
    }

    /// Whether an earlier event of an event's aggregate is parked.
    fn is_behind_parked(&self, id: Id, position: i64, event: &Logged) -> bool {
        let mut parked = self.parked.iter().filter(|one| one.0 == id);
        parked.any(|(_, parked)| {
            let other = self.log.get(parked);
            *parked < position
                && other.is_some_and(|other| {
                    (&other.kind, &other.aggregate) == (&event.kind, &event.aggregate)
                })
        })
    }

    fn times_applied(&self, id: Id, position: i64) -> usize {
        let own = |row: &&(Id, i64)| **row == (id, position);
        self.applied.iter().filter(own).count()
    }
}

/// What a worker, or an operator who retries parked events, did.
pub(super) struct Work<'a> {
    /// The code that took part.
    pub(super) releases: &'a [(&'static str, Release)],
    /// The events up to here had to be handled; `None` after a crash.
    pub(super) target: Option<i64>,
    /// What was settled when it began.
    pub(super) settled: i64,
    /// Whether transactions were open beside it, so that what was settled is not known exactly.
    pub(super) has_writers: bool,
    /// The version whose parked events an operator tried again meanwhile.
    pub(super) retried: Option<Id>,
    pub(super) calls: Vec<Call>,
    pub(super) effects: Vec<(&'static str, i64)>,
    /// Whether effects may have been lost with a process or an answer.
    pub(super) may_lose_effects: bool,
    /// Whether the worker keeps running, so that effects of its last batch may still follow.
    pub(super) keeps_running: bool,
}

impl Work<'_> {
    /// The code of a version; several of it in a deploy that is under way.
    fn releases(&self, id: Id) -> impl Iterator<Item = &Release> {
        let own = move |one: &&(&str, Release)| (one.0, one.1.version) == id;
        self.releases.iter().filter(own).map(|one| &one.1)
    }

    /// Whether code of a version passes over an event.
    fn may_ignore(&self, id: Id, script: Script) -> bool {
        self.releases(id).any(|release| release.ignores(script))
    }

    /// What became of an event that is not parked.
    fn passed(&self, id: Id, position: i64, script: Script, seen: &Observed) -> Fate {
        // It may have been handled before outside the database, and not passed then.
        let is_ignored =
            !is_transactional(id.0) && self.releases(id).all(|release| release.ignores(script));
        if is_ignored || seen.times_applied(id, position) == 0 {
            Fate::Skipped
        } else {
            Fate::Applied
        }
    }

    /// Whether several versions of a consumer took part.
    fn has_versions(&self, name: &str) -> bool {
        let own = self.releases.iter().filter(|one| one.0 == name);
        let versions: BTreeSet<u32> = own.map(|one| one.1.version).collect();
        versions.len() > 1
    }
}

/// What became of an event that a checkpoint has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Applied,
    Parked,
    /// By its policy or an operator, or because its code ignores it.
    Skipped,
    OutOfScope,
}

#[derive(Debug, Default)]
struct Progress {
    /// It does not get the events up to here.
    start: i64,
    fates: BTreeMap<i64, Fate>,
    /// The events that it has handled and that are no longer in the log.
    archived: BTreeSet<i64>,
    /// It has missed these when they were deleted, which counts as attempts.
    missed: BTreeSet<i64>,
    /// Attempts at these were cut short, so that the policy may apply to them in spite of a repair.
    uncertain: BTreeSet<i64>,
}

/// What may and what must have become of every event.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Every event that was ever committed.
    all: BTreeMap<i64, Logged>,
    archived: BTreeSet<i64>,
    repaired: BTreeSet<i64>,
    progress: BTreeMap<Id, Progress>,
    /// What a consumer of this name, of any version, has handled or skipped.
    done: BTreeSet<(&'static str, i64)>,
    /// How often the effect of an event must at least and may at most have happened.
    effects: BTreeMap<(&'static str, i64), (usize, usize)>,
    happened: BTreeMap<(&'static str, i64), usize>,
    /// The highest attempt at each event, by version.
    attempts: BTreeMap<(&'static str, u32, i64), u32>,
    /// The versions that an operator, or the worker that made a view, made the active ones.
    active: BTreeMap<&'static str, u32>,
    seen: Observed,
}

impl Model {
    /// What the database showed last.
    pub(super) fn seen(&self) -> &Observed {
        &self.seen
    }

    /// The events that can be deleted: passed by every checkpoint, and not parked.
    pub(super) fn archivable(&self) -> Vec<i64> {
        let passed = self.seen.rows.iter().map(|row| row.position).min();
        let is_parked = |position: &i64| {
            self.seen
                .parked
                .iter()
                .any(|(_, parked)| parked == position)
        };
        let log = self.seen.log.keys().copied();
        log.filter(|position| passed.is_some_and(|passed| *position <= passed))
            .filter(|position| !is_parked(position))
            .collect()
    }

    /// Notes that events were deleted from the log.
    pub(super) fn archive(&mut self, positions: &[i64]) {
        self.archived.extend(positions);
        for progress in self.progress.values_mut() {
            for position in positions {
                if progress.fates.remove(position) == Some(Fate::Applied) {
                    progress.archived.insert(*position);
                }
            }
        }
    }

    /// Notes that a version missed an event, which was restored.
    pub(super) fn lose(&mut self, id: Id, position: i64) {
        if let Some(progress) = self.progress.get_mut(&id) {
            progress.missed.insert(position);
            progress.uncertain.insert(position);
        }
    }

    /// The broken events that were not repaired yet.
    pub(super) fn broken(&self) -> Vec<i64> {
        let log = self.seen.log.iter();
        let broken = log.filter(|(position, event)| self.is_broken(**position, event.script));
        broken.map(|(position, _)| *position).collect()
    }

    /// Notes that an event succeeds from now on.
    pub(super) fn repair(&mut self, position: i64) {
        self.repaired.insert(position);
    }

    fn is_broken(&self, position: i64, script: Script) -> bool {
        let succeeds = matches!(
            script,
            Script::Succeed | Script::MoveSearchPath | Script::ChangeSession | Script::New(_)
        );
        !succeeds && !self.repaired.contains(&position)
    }

    /// Takes in what the database shows after a step that called no handler.
    pub(super) fn observe(&mut self, seen: Observed) -> Verdict {
        for (position, event) in &self.all {
            let is_gone = !seen.log.contains_key(position);
            if is_gone != self.archived.contains(position) {
                return Err(format!("event {position} ({event:?}) is gone from the log"));
            }
        }
        self.all.extend(seen.log.clone());
        for id in self.progress.keys() {
            Self::check_rows(*id, &seen)?;
            self.check_settled(*id, &seen)?;
            self.check_archived(*id, &seen)?;
        }
        self.check_order(&seen)?;
        self.check_active(&seen)?;
        Self::check_view(&seen)?;
        self.seen = seen;
        Ok(())
    }

    /// Notes that a version has its checkpoint.
    pub(super) fn enroll(&mut self, name: &'static str, release: &Release, settled: i64) {
        let id = (name, release.version);
        if self.progress.contains_key(&id) {
            return;
        }
        let mut start = 0;
        if release.start_from == StartFrom::Now {
            // At the version before it, so that no event is left out.
            start = self.slowest_before(id).unwrap_or(settled).min(settled);
            let is_first = !self.progress.keys().any(|other| other.0 == name);
            if is_first {
                self.skip_up_to(start, name, release);
            }
        }
        let progress = Progress {
            start,
            ..Progress::default()
        };
        self.progress.insert(id, progress);
    }

    /// Where the version before another one is.
    fn slowest_before(&self, id: Id) -> Option<i64> {
        let before = self
            .progress
            .range((id.0, 0)..id)
            .next_back()
            .map(|(before, progress)| (*before, progress.start));
        let (before, start) = before?;
        let position = self.seen.rows_of(before).map(|row| row.position).min();
        Some(position.unwrap_or(start))
    }

    /// Notes that the first version of a consumer to start now skips what is in the log.
    fn skip_up_to(&mut self, start: i64, name: &'static str, release: &Release) {
        let earlier = self.all.range(..=start);
        let skipped = earlier.filter(|(_, event)| is_in_scope(&release.scope, &event.kind));
        self.done
            .extend(skipped.map(|(position, _)| (name, *position)));
    }

    /// Whether a version has a checkpoint.
    pub(super) fn is_enrolled(&self, id: Id) -> bool {
        self.progress.contains_key(&id)
    }

    /// How many events a version has parked.
    pub(super) fn parked(&self, id: Id) -> Vec<i64> {
        let Some(progress) = self.progress.get(&id) else {
            return Vec::new();
        };
        let parked = progress
            .fates
            .iter()
            .filter(|(_, fate)| **fate == Fate::Parked);
        parked.map(|(position, _)| *position).collect()
    }

    /// Whether the log has an event in the scope of a release that it does not know.
    pub(super) fn has_unknown(&self, release: &Release) -> bool {
        self.seen
            .log
            .values()
            .any(|event| is_in_scope(&release.scope, &event.kind) && !release.knows(event.script))
    }

    /// Whether an event still cannot be decoded.
    pub(super) fn is_unreadable(&self, position: i64) -> bool {
        let script = self.all.get(&position).map(|event| event.script);
        script == Some(Script::Unreadable) && !self.repaired.contains(&position)
    }

    /// Notes that a version starts again from the beginning.
    pub(super) fn rebuild(&mut self, id: Id) {
        self.progress.insert(id, Progress::default());
    }

    /// Notes that a version has no checkpoint any more.
    pub(super) fn forget(&mut self, id: Id) {
        self.progress.remove(&id);
        self.active.retain(|name, version| (*name, *version) != id);
    }

    /// Notes that a version was made the active one.
    pub(super) fn activate(&mut self, name: &'static str, version: u32) {
        self.active.insert(name, version);
    }

    /// Notes that an operator skipped a parked event.
    pub(super) fn skip_parked(&mut self, id: Id, position: i64) {
        if let Some(progress) = self.progress.get_mut(&id) {
            progress.fates.insert(position, Fate::Skipped);
            self.done.insert((id.0, position));
        }
    }

    /// Notes that an operator parked or skipped the event at which a version stopped.
    pub(super) fn pass(&mut self, id: Id, position: i64, parks: bool) {
        let scope = self.rows_stopped_at(id, position).next();
        let scope = scope.map(|row| row.scope.clone()).unwrap_or_default();
        let event = self.all.get(&position);
        let is_due = event.is_some_and(|event| is_in_scope(&scope, &event.kind));
        let fate = match (parks, is_due) {
            (true, _) => Fate::Parked,
            (false, true) => Fate::Skipped,
            (false, false) => Fate::OutOfScope,
        };
        if fate == Fate::Skipped {
            self.done.insert((id.0, position));
        }
        if let Some(progress) = self.progress.get_mut(&id) {
            progress.fates.insert(position, fate);
        }
    }

    /// Whether rows that are stopped at an event have not handled all events before it.
    pub(super) fn has_unhandled_before(&self, id: Id, position: i64) -> bool {
        let mut log = self.seen.log.range(..position);
        log.any(|(before, event)| {
            let slice = aggregate_slice(&event.aggregate);
            self.rows_stopped_at(id, position).any(|row| {
                row.position < *before
                    && row.slices.contains(&slice)
                    && is_in_scope(&row.scope, &event.kind)
            })
        })
    }

    fn rows_stopped_at(&self, id: Id, position: i64) -> impl Iterator<Item = &Row> {
        let rows = self.seen.rows_of(id);
        rows.filter(move |row| row.halted_at() == Some(position))
    }

    /// Takes in what the database shows after a worker ran.
    pub(super) fn ran(&mut self, work: &Work<'_>, seen: Observed) -> Verdict {
        self.all.extend(seen.log.clone());
        for (name, release) in work.releases {
            let id = (*name, release.version);
            if seen.rows_of(id).next().is_some() {
                let settled = if work.has_writers {
                    seen.first_after(id, &work.calls)
                } else {
                    work.settled
                };
                self.enroll(name, release, settled);
            }
        }
        let done = self.done.clone();
        Self::check_replays(work, &done)?;
        self.check_attempts(work)?;
        let ids: Vec<Id> = self.progress.keys().copied().collect();
        let mut new = match work.retried {
            Some(id) => self.handled_again(id, work, &seen)?,
            None => Vec::new(),
        };
        let freed = new.clone();
        for id in ids {
            Self::check_rows(id, &seen)?;
            for position in self.new_positions(id, &seen) {
                let fate = self.fate_of(id, position, work, &seen)?;
                new.push((id, position, fate));
                if let Some(progress) = self.progress.get_mut(&id) {
                    progress.fates.insert(position, fate);
                }
            }
            self.reached(id, work, &seen)?;
        }
        self.check_freed(work, &freed)?;
        self.note_uncertain(work);
        self.note_effects(work, &new);
        self.check_effects(work)?;
        self.observe(seen)
    }

    /// Takes in what the database shows after parked events were tried again.
    pub(super) fn retried(
        &mut self,
        id: Id,
        work: &Work<'_>,
        one: Option<i64>,
        seen: Observed,
    ) -> Verdict {
        let done = self.done.clone();
        Self::check_replays(work, &done)?;
        self.check_attempts(work)?;
        let new = self.handled_again(id, work, &seen)?;
        let still = self.parked(id).into_iter();
        let mut blocked: BTreeSet<_> = still.filter_map(|at| self.aggregate(at)).collect();
        let one = one.and_then(|position| self.aggregate(position));
        blocked.retain(|aggregate| one.as_ref().is_none_or(|one| one == aggregate));
        self.check_retry_was_complete(id, &work.releases[0].1, &blocked)?;
        self.note_effects(work, &new);
        self.check_effects(work)?;
        self.observe(seen)
    }

    /// The parked events of a version that were handled when they were tried again.
    fn handled_again(
        &mut self,
        id: Id,
        work: &Work<'_>,
        seen: &Observed,
    ) -> Verdict<Vec<(Id, i64, Fate)>> {
        let mut blocked = BTreeSet::new();
        let mut new = Vec::new();
        for position in self.parked(id) {
            let script = self.event(position)?.script;
            let aggregate = self.aggregate(position);
            if seen.parked.contains(&(id, position)) {
                blocked.insert(aggregate);
                continue;
            }
            if blocked.contains(&aggregate) {
                return Err(format!(
                    "{id:?} handled the parked event {position} before an earlier one of its aggregate"
                ));
            }
            if !work.releases(id).any(|release| release.knows(script)) {
                return Err(format!(
                    "the parked event {position} of {id:?} is unknown to the release that handled it"
                ));
            }
            let may_succeed = matches!(script, Script::FailFirst(_))
                || !is_transactional(id.0)
                || (script.is_violation() && !runs_sql(id.0));
            if self.is_broken(position, script) && !may_succeed {
                return Err(format!(
                    "the parked event {position} of {id:?} is broken and was handled: {script:?}"
                ));
            }
            let fate = if work.may_ignore(id, script) {
                work.passed(id, position, script, seen)
            } else {
                Fate::Applied
            };
            new.push((id, position, fate));
        }
        for (_, position, fate) in &new {
            if let Some(progress) = self.progress.get_mut(&id) {
                progress.fates.insert(*position, *fate);
            }
        }
        Ok(new)
    }

    /// Checks that no event waits behind a parked one that was handled meanwhile.
    fn check_freed(&self, work: &Work<'_>, freed: &[(Id, i64, Fate)]) -> Verdict {
        for (id, position, _) in freed {
            let aggregate = self.aggregate(*position);
            let mut waiting = self.parked(*id);
            waiting.retain(|position| self.aggregate(*position) == aggregate);
            let mut failing = waiting.iter().filter(|position| {
                let event = self.all.get(position);
                let is_broken = event.is_some_and(|one| {
                    let mut releases = work.releases(*id);
                    self.is_broken(**position, one.script)
                        || !releases.any(|release| release.knows(one.script))
                });
                let progress = self.progress.get(id);
                is_broken || progress.is_some_and(|one| one.uncertain.contains(position))
            });
            if !waiting.is_empty() && failing.next().is_none() {
                return Err(format!(
                    "{id:?} has {waiting:?} parked behind {position}, which is handled"
                ));
            }
        }
        Ok(())
    }

    /// The type and the id of an event's aggregate.
    fn aggregate(&self, position: i64) -> Option<(String, String)> {
        let event = self.all.get(&position)?;
        Some((event.kind.clone(), event.aggregate.clone()))
    }

    /// Whether the parked events of a version can be tried again while a handler waits for that.
    pub(super) fn may_retry(&self, id: Id) -> bool {
        let parked = self.parked(id);
        let mut scripts = parked.iter().filter_map(|position| {
            let event = self.all.get(position)?;
            Some((*position, event.script))
        });
        let hangs = |(position, script)| script == Script::Hang && self.is_broken(position, script);
        !parked.is_empty() && !scripts.any(hangs)
    }

    /// An aggregate stays parked only for an event that may fail.
    fn check_retry_was_complete(
        &self,
        id: Id,
        release: &Release,
        blocked: &BTreeSet<(String, String)>,
    ) -> Verdict {
        for (kind, aggregate) in blocked {
            let mut own = self.parked(id).into_iter().filter_map(|position| {
                let event = self.all.get(&position)?;
                let is_own = (&event.kind, &event.aggregate) == (kind, aggregate);
                is_own.then_some((position, event.script))
            });
            let may_stay =
                |(position, script)| self.is_broken(position, script) || !release.knows(script);
            if !own.any(may_stay) {
                return Err(format!(
                    "{id:?} still has events of {kind} {aggregate} parked, and none of them fails"
                ));
            }
        }
        Ok(())
    }

    /// Checks that nothing is left to do for these releases.
    pub(super) fn is_drained(&self, releases: &[(&'static str, Release)]) -> Verdict {
        for (name, release) in releases {
            let id = (*name, release.version);
            let parked = self.parked(id);
            if !parked.is_empty() {
                return Err(format!("{id:?} still has parked events: {parked:?}"));
            }
            let progress = self.progress.get(&id).ok_or(format!("{id:?} never ran"))?;
            for (position, event) in &self.seen.log {
                let is_due = is_in_scope(&release.scope, &event.kind);
                if is_due && *position > progress.start && !progress.fates.contains_key(position) {
                    return Err(format!("event {position} was lost: {id:?} never passed it"));
                }
            }
        }
        Ok(())
    }

    fn event(&self, position: i64) -> Verdict<&Logged> {
        self.all
            .get(&position)
            .ok_or(format!("event {position} was never committed"))
    }

    /// The events of the log that a checkpoint has passed since the last look.
    fn new_positions(&self, id: Id, seen: &Observed) -> Vec<i64> {
        let Some(progress) = self.progress.get(&id) else {
            return Vec::new();
        };
        let is_new = |(position, event): &(&i64, &Logged)| {
            let slice = aggregate_slice(&event.aggregate);
            let is_passed = seen
                .rows_of(id)
                .any(|row| row.slices.contains(&slice) && **position <= row.position);
            is_passed && **position > progress.start && !progress.fates.contains_key(position)
        };
        let new = seen.log.iter().filter(is_new);
        new.map(|(position, _)| *position).collect()
    }

    /// What became of an event that a checkpoint has just passed.
    fn fate_of(&self, id: Id, position: i64, work: &Work<'_>, seen: &Observed) -> Verdict<Fate> {
        let event = self.event(position)?;
        let slice = aggregate_slice(&event.aggregate);
        let row = seen.rows_of(id).find(|row| row.slices.contains(&slice));
        let scope = row.map(|row| row.scope.as_slice()).unwrap_or_default();
        if !is_in_scope(scope, &event.kind) {
            return Ok(Fate::OutOfScope);
        }
        let fate = if seen.parked.contains(&(id, position)) {
            Fate::Parked
        } else {
            work.passed(id, position, event.script, seen)
        };
        let releases = || work.releases(id);
        if releases().next().is_none() {
            return Err(format!(
                "event {position} was passed by {id:?}, which did not run"
            ));
        }
        let may = releases().flat_map(|one| self.may_become(id, position, event, one));
        let mut may: Vec<Fate> = may.collect();
        if work.retried == Some(id) {
            let after_retry =
                releases().flat_map(|one| self.may_become_after_retry(id, position, event, one));
            may.extend(after_retry);
        }
        // Each release tries an event that others failed on, and the attempts count on.
        let attempts: u32 = releases().map(|one| one.retries + 1).sum();
        if matches!(event.script, Script::FailFirst(failures) if failures < attempts)
            && releases().any(|one| one.knows(event.script))
            && !self.is_behind_parked(id, position, event)
        {
            may.push(Fate::Applied);
        }
        if may.contains(&fate) {
            return Ok(fate);
        }
        let what = match fate {
            Fate::Skipped => "was lost: it was passed, and neither handled nor parked",
            Fate::Parked => "was parked",
            _ => "was handled",
        };
        Err(format!(
            "event {position} ({event:?}) {what} by {id:?}; it may have become {may:?} under {:?}",
            releases().map(|one| one.on_error).collect::<Vec<_>>()
        ))
    }

    /// What may become of an event; nothing where a checkpoint must stay before it.
    fn may_become(&self, id: Id, position: i64, event: &Logged, release: &Release) -> Vec<Fate> {
        if self.is_behind_parked(id, position, event) {
            return vec![Fate::Parked];
        }
        self.may_become_alone(id, position, event, release)
    }

    /// What may become of an event that an operator tried again as well, or what it waited for.
    fn may_become_after_retry(
        &self,
        id: Id,
        position: i64,
        event: &Logged,
        release: &Release,
    ) -> Vec<Fate> {
        let mut may = self.may_become_alone(id, position, event, release);
        if self.is_broken(position, event.script) {
            may.push(Fate::Parked);
        }
        if matches!(event.script, Script::FailFirst(_)) {
            may.push(Fate::Applied);
        }
        may
    }

    /// What may become of an event that waits for no other; nothing where a checkpoint must stay before it.
    fn may_become_alone(
        &self,
        id: Id,
        position: i64,
        event: &Logged,
        release: &Release,
    ) -> Vec<Fate> {
        if !release.knows(event.script) {
            return vec![];
        }
        let policy = match release.on_error {
            OnError::Park => Some(Fate::Parked),
            OnError::Skip => Some(Fate::Skipped),
            _ => None,
        };
        let is_uncertain = self
            .progress
            .get(&id)
            .is_some_and(|progress| progress.uncertain.contains(&position));
        let either = || {
            [Some(Fate::Applied), policy]
                .into_iter()
                .flatten()
                .collect()
        };
        let is_broken = self.is_broken(position, event.script);
        match event.script {
            script if release.ignores(script) => vec![Fate::Skipped],
            script if script.is_violation() && !runs_sql(id.0) => vec![Fate::Applied],
            script if script.is_violation() && is_broken => vec![],
            Script::FailFirst(_) if is_uncertain => either(),
            Script::FailFirst(attempts) if attempts <= release.retries => vec![Fate::Applied],
            _ if is_broken => policy.into_iter().collect(),
            _ if is_uncertain => either(),
            _ => vec![Fate::Applied],
        }
    }

    fn is_behind_parked(&self, id: Id, position: i64, event: &Logged) -> bool {
        self.parked(id).into_iter().any(|parked| {
            let other = self.all.get(&parked);
            parked < position
                && other.is_some_and(|other| {
                    (&other.kind, &other.aggregate) == (&event.kind, &event.aggregate)
                })
        })
    }

    /// Checks that a consumer that ran got as far as it had to.
    fn reached(&self, id: Id, work: &Work<'_>, seen: &Observed) -> Verdict {
        let Some(target) = work.target else {
            return Ok(());
        };
        let releases: Vec<&Release> = work.releases(id).collect();
        for row in seen.rows_of(id) {
            let fitting = releases.iter().filter(|release| fits(release, row));
            let fitting: Vec<&Release> = fitting.copied().collect();
            if row.state != "paused" && !fitting.is_empty() {
                self.row_reached(row, target, &fitting, (work, seen))?;
            }
        }
        Ok(())
    }

    /// Whether all rows are where they must be.
    pub(super) fn is_reached(&self, work: &Work<'_>, seen: &Observed) -> Verdict {
        let ids = work.releases.iter().map(|(name, one)| (*name, one.version));
        for id in ids {
            if seen.rows_of(id).next().is_none() {
                return Err(format!("{id:?} has no checkpoint"));
            }
            self.reached(id, work, seen)?;
        }
        Ok(())
    }

    fn row_reached(
        &self,
        row: &Row,
        target: i64,
        releases: &[&Release],
        (work, seen): (&Work<'_>, &Observed),
    ) -> Verdict {
        let start = self.progress.get(&row.id).map_or(0, |one| one.start);
        let due_in = |slices: &std::ops::Range<u16>| -> Vec<(&i64, &Logged)> {
            let events = seen.log.iter().filter(|(position, event)| {
                **position > row.position.max(start)
                    && **position <= target
                    && slices.contains(&aggregate_slice(&event.aggregate))
                    && is_in_scope(&row.scope, &event.kind)
            });
            events.collect()
        };
        let due = due_in(&row.slices);
        let Some((next, event)) = due.first() else {
            return Ok(());
        };
        let is_parked = seen.is_behind_parked(row.id, **next, event);
        let is_known = |event: &Logged| releases.iter().any(|release| release.knows(event.script));
        let may_wait = !is_known(event) && !is_parked;
        if row.state == "running" && (may_wait || self.is_split_off(row, seen, is_known)) {
            return Ok(());
        }
        let was_stopped = self
            .seen
            .rows
            .iter()
            .any(|before| before.has_stopped_with(row));
        let may_stop_at = |due: &[(&i64, &Logged)]| {
            let mut releases = releases.iter();
            releases.any(|release| self.may_stop(row.id, due, release, work))
        };
        // It may have stopped before it was split.
        let mut before = self.seen.rows_of(row.id);
        let whole = before.find(|one| one.slices.contains(&row.slices.start));
        let may_stop =
            may_stop_at(&due) || whole.is_some_and(|whole| may_stop_at(&due_in(&whole.slices)));
        if row.state == "stopped" && (may_stop || was_stopped || self.is_half(row)) {
            return Ok(());
        }
        Err(format!(
            "event {next} was not reached: {:?} is {} at {}, and had to come to {target}",
            row.id, row.state, row.position
        ))
    }

    /// Whether a row was split off, perhaps only just, from one that waited for another release: before
    /// the work, or since it began, which its other half shows. Where a release knows the event that the
    /// row waited for, that is no reason to end.
    fn is_split_off(&self, row: &Row, seen: &Observed, is_known: impl Fn(&Logged) -> bool) -> bool {
        let waits = |row: &Row| {
            let unknown = row.unknown_position.and_then(|at| self.all.get(&at));
            unknown.is_some_and(|event| !is_known(event))
        };
        let waits_within = |whole: &Row| {
            let mut halves = seen.rows_of(row.id);
            halves.any(|half| waits(half) && whole.slices.contains(&half.slices.start))
        };
        let mut before = self.seen.rows.iter();
        before.any(|one| {
            let is_whole = one.slices != row.slices && one.slices.contains(&row.slices.start);
            let waited = waits(one) || waits_within(one);
            one.id == row.id && is_whole && waited
        })
    }

    /// Whether a row was split after it had stopped, and the event at which it did is in the other half.
    fn is_half(&self, row: &Row) -> bool {
        let failed = row.failed_position.and_then(|at| self.all.get(&at));
        failed.is_some_and(|event| !row.slices.contains(&aggregate_slice(&event.aggregate)))
    }

    /// Whether a consumer may stop at one of the events that are due.
    fn may_stop(
        &self,
        id: Id,
        due: &[(&i64, &Logged)],
        release: &Release,
        work: &Work<'_>,
    ) -> bool {
        let mut next = due.iter().take(release.batch_size as usize);
        next.any(|(position, event)| {
            let progress = self.progress.get(&id);
            let is_uncertain = progress.is_some_and(|one| one.uncertain.contains(position));
            let may = if work.retried == Some(id) {
                self.may_become_alone(id, **position, event, release)
            } else {
                self.may_become(id, **position, event, release)
            };
            (may.is_empty() && release.knows(event.script))
                || (is_uncertain && release.on_error == OnError::Stop)
        })
    }

    /// Checks that the rows of a version cover every slice once.
    fn check_rows(id: Id, seen: &Observed) -> Verdict {
        let mut slices: Vec<_> = seen.rows_of(id).map(|row| row.slices.clone()).collect();
        slices.sort_by_key(|slices| slices.start);
        let mut next = 0;
        for slices in &slices {
            if slices.start != next {
                return Err(format!(
                    "the rows of {id:?} do not cover slice {next}: {slices:?}"
                ));
            }
            next = slices.end;
        }
        if next == 1024 {
            Ok(())
        } else {
            Err(format!("the rows of {id:?} end at slice {next}"))
        }
    }

    /// Checks that what was settled before still is, and that nothing else was handled.
    fn check_settled(&self, id: Id, seen: &Observed) -> Verdict {
        let Some(progress) = self.progress.get(&id) else {
            return Ok(());
        };
        for (position, event) in &seen.log {
            let times = seen.times_applied(id, *position);
            let is_parked = seen.parked.contains(&(id, *position));
            let fate = progress.fates.get(position);
            let fits = match fate {
                Some(Fate::Applied) => times == 1 && !is_parked,
                Some(Fate::Parked) => (times == 0 || !is_transactional(id.0)) && is_parked,
                Some(Fate::Skipped | Fate::OutOfScope) | None => {
                    (times == 0 || !is_transactional(id.0)) && !is_parked
                }
            };
            if !fits {
                let parked = if is_parked { ", and is parked" } else { "" };
                return Err(format!(
                    "event {position} ({event:?}) is {times} times in the read model of {id:?}{parked}; the model says {fate:?}"
                ));
            }
        }
        Ok(())
    }

    /// Checks that a read model still has the handled events that are no longer in the log, and no others
    /// that are not.
    fn check_archived(&self, id: Id, seen: &Observed) -> Verdict {
        let Some(progress) = self.progress.get(&id).filter(|_| is_transactional(id.0)) else {
            return Ok(());
        };
        let own = seen.applied.iter().filter(|(of, _)| *of == id);
        let gone = own.filter(|(_, position)| !seen.log.contains_key(position));
        let mut gone: Vec<i64> = gone.map(|(_, position)| *position).collect();
        gone.sort_unstable();
        if gone.iter().eq(&progress.archived) {
            return Ok(());
        }
        Err(format!(
            "the read model of {id:?} has {gone:?} of the events that were deleted from the log; it had handled {:?}",
            progress.archived
        ))
    }

    /// Checks that active versions stay what they were made.
    fn check_active(&mut self, seen: &Observed) -> Verdict {
        for (name, version) in &self.active {
            let recorded = seen.active.get(name);
            if recorded != Some(version) {
                return Err(format!(
                    "version {version} of `{name}` was made the active one, and {recorded:?} is recorded"
                ));
            }
        }
        // A worker that makes a view records the version that it shows.
        let by_worker = seen.active.get_key_value(FOLD);
        self.active.extend(by_worker);
        Ok(())
    }

    /// Checks that the view of a read model shows the rows of the active version.
    fn check_view(seen: &Observed) -> Verdict {
        let Tables { of_versions, view } = &seen.tables;
        let active = seen.active(FOLD);
        let Some(rows) = active.and_then(|active| of_versions.get(&active)) else {
            return Ok(());
        };
        let fits = match view {
            Some(view) => view == rows,
            // A rebuild makes the table, and only a worker the view.
            None => rows.is_empty(),
        };
        if fits {
            return Ok(());
        }
        Err(format!(
            "the view of `{FOLD}` shows {view:?}, and version {active:?} has {rows:?}"
        ))
    }

    /// Checks the order of each aggregate, and that nothing was handled that was never committed.
    fn check_order(&self, seen: &Observed) -> Verdict {
        let mut last: BTreeMap<(Id, &str, &str), i64> = BTreeMap::new();
        let in_order = |applied: &&(Id, i64)| !seen.before_rebuild.contains(applied);
        for (id, position) in seen.applied.iter().filter(in_order) {
            let event = self.event(*position)?;
            let before = last.insert((*id, &event.kind, &event.aggregate), *position);
            if before.is_some_and(|before| before >= *position) {
                return Err(format!(
                    "{id:?} handled event {position} of {} {} after {before:?}",
                    event.kind, event.aggregate
                ));
            }
        }
        Ok(())
    }

    /// Checks `is_replay()` of each call: true exactly when a consumer of this name has already
    /// handled or skipped the event.
    fn check_replays(work: &Work<'_>, done: &BTreeSet<(&'static str, i64)>) -> Verdict {
        for call in &work.calls {
            let was_done = done.contains(&(call.consumer, call.position));
            // Two versions at the same event: one of the two comes first.
            let is_open = !was_done && work.has_versions(call.consumer);
            if call.is_replay != was_done && !is_open {
                let before = if was_done { "was" } else { "was never" };
                return Err(format!(
                    "`is_replay()` was {} for event {} in version {} of `{}`, by which it {before} handled or skipped",
                    call.is_replay, call.position, call.version, call.consumer
                ));
            }
        }
        Ok(())
    }

    /// Checks that no attempt at an event is counted that was not made.
    fn check_attempts(&mut self, work: &Work<'_>) -> Verdict {
        for call in &work.calls {
            let key = (call.consumer, call.version, call.position);
            let script = self.all.get(&call.position).map(|event| event.script);
            let progress = self.progress.get(&(call.consumer, call.version));
            let was_missed = progress.is_some_and(|one| one.missed.contains(&call.position));
            let made = self.attempts.entry(key).or_default();
            // An event that could not be decoded failed without a call.
            let may_count = script == Some(Script::Unreadable) || was_missed;
            if call.attempt > *made + 1 && !may_count {
                return Err(format!(
                    "event {} was handled in attempt {} of version {} of `{}`, after {made} attempts at most",
                    call.position, call.attempt, call.version, call.consumer
                ));
            }
            *made = call.attempt.max(*made);
        }
        Ok(())
    }

    fn note_uncertain(&mut self, work: &Work<'_>) {
        if work.target.is_some() {
            return;
        }
        for call in &work.calls {
            if let Some(progress) = self.progress.get_mut(&(call.consumer, call.version))
                && !progress.fates.contains_key(&call.position)
            {
                progress.uncertain.insert(call.position);
            }
        }
        // No handler is called with these, but their attempts count.
        let unreadable: Vec<i64> = self
            .broken()
            .into_iter()
            .filter(|at| self.is_unreadable(*at))
            .collect();
        let ran = |id: &Id| work.releases(*id).next().is_some();
        for (_, progress) in self.progress.iter_mut().filter(|(id, _)| ran(id)) {
            let left = unreadable
                .iter()
                .filter(|at| !progress.fates.contains_key(at));
            progress.uncertain.extend(left);
        }
    }

    fn note_effects(&mut self, work: &Work<'_>, new: &[(Id, i64, Fate)]) {
        let done = self.done.clone();
        for (id, position, fate) in new {
            let key = (id.0, *position);
            let is_first = *fate == Fate::Applied && !done.contains(&key);
            if is_first {
                // Another version may have skipped it a moment earlier.
                let other_skipped = new
                    .iter()
                    .any(|other| (other.0.0, other.1, other.2) == (key.0, key.1, Fate::Skipped));
                // Handled outside the database, and then passed over by another release.
                let may_ignore = self.all.get(position).is_some_and(|event| {
                    !is_transactional(id.0) && work.may_ignore(*id, event.script)
                });
                let is_certain = !work.may_lose_effects && !other_skipped && !may_ignore;
                let least = usize::from(is_certain);
                self.effects.insert(key, (least, 1));
            }
            if matches!(fate, Fate::Applied | Fate::Skipped) {
                self.done.insert(key);
            }
        }
        for effect in &work.effects {
            *self.happened.entry(*effect).or_default() += 1;
        }
    }

    fn check_effects(&self, work: &Work<'_>) -> Verdict {
        let keys: BTreeSet<_> = self.effects.keys().chain(self.happened.keys()).collect();
        for key in keys {
            let (least, most) = self.effects.get(key).copied().unwrap_or_default();
            let happened = self.happened.get(key).copied().unwrap_or_default();
            let is_missing = happened < least && !work.keeps_running;
            if is_missing || happened > most {
                return Err(format!(
                    "the effect of event {} in `{}` happened {happened} times, not {least} to {most}",
                    key.1, key.0
                ));
            }
        }
        Ok(())
    }
}

/// The name of a consumer as a constant.
pub(super) fn known(name: &str) -> &'static str {
    NAMES
        .into_iter()
        .find(|one| *one == name)
        .expect("a consumer of the history")
}

/// Whether code has the scope of a row.
pub(super) fn fits(release: &Release, row: &Row) -> bool {
    sorted(&release.scope) == sorted(&row.scope)
}

fn is_in_scope<S: AsRef<str>>(scope: &[S], kind: &str) -> bool {
    scope.is_empty() || scope.iter().any(|one| one.as_ref() == kind)
}

fn sorted<S: AsRef<str>>(scope: &[S]) -> Vec<&str> {
    let mut scope: Vec<&str> = scope.iter().map(AsRef::as_ref).collect();
    scope.sort_unstable();
    scope
}
