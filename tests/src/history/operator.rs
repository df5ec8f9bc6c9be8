//! An operator, who gives commands and compares what they say with the model.

use consumer::admin::{
    ActivateOptions, Admin, AdminError, ForgetOptions, Outcome, RebuildOptions, Target,
};
use consumer::{ConsumerState, WorkerError};

use super::backend::HistoryBackend;
use super::command::Command;
use super::execution::{Execution, timeout};
use super::folded::FOLD;
use super::model::{Id, Observed, Row, Verdict};
use super::scripted::{Fuse, NAMES, is_transactional};
use super::step::{CONSUMERS, End, Release};
use crate::Running;

/// An operator with the code of a release.
type Operator<DB> = (Admin<DB>, Id, Release);

impl<DB: HistoryBackend> Execution<'_, DB> {
    /// Gives a command for the newest version of a consumer; `which` chooses among its events and
    /// options.
    pub(super) async fn command(
        &mut self,
        command: Command,
        consumer: usize,
        which: usize,
    ) -> Verdict {
        let id = self.newest(consumer);
        match command {
            Command::Pause => self.pause(consumer).await,
            Command::Resume => self.resume(id).await,
            Command::AcceptScope => self.accept_scope(id).await,
            Command::MergeSegments => self.merge(consumer).await,
            Command::Rebuild => self.rebuild(id, which).await,
            Command::RetryParked => self.retry_parked(id, which).await,
            Command::SkipParked => self.skip_parked(id, which).await,
            Command::Park => self.get_past(id, which, true).await,
            Command::Skip => self.get_past(id, which, false).await,
            Command::Activate => self.activate(id, which).await,
            Command::Forget => self.forget_oldest(consumer, which).await,
            Command::Rename => self.rename(id).await,
            Command::StartNew => self.restart(consumer).await,
            Command::Redact => self.redact(which, true).await,
            Command::WatchRebuild
            | Command::Parked
            | Command::ParkedEvent
            | Command::ActiveVersion
            | Command::Status
            | Command::StatusSince
            | Command::UnknownEvents
            | Command::Explain
            | Command::Frontier => self.inspect(command, id, which).await,
        }
    }

    /// The newest version of a consumer.
    pub(super) fn newest(&self, consumer: usize) -> Option<Id> {
        let release = self.releases.get(consumer)?.last()?;
        Some((*NAMES.get(consumer)?, release.version))
    }

    /// An operator with the code, if the version has a checkpoint.
    fn operator(&self, id: Option<Id>) -> Option<Operator<DB>> {
        let code = self.code();
        let id = id.filter(|id| self.model.is_enrolled(*id))?;
        let release = code
            .iter()
            .find(|(name, release)| (*name, release.version) == id)
            .map(|(_, release)| release.clone())?;
        let admin = self.builder(self.database.store.clone(), &code).admin();
        Some((admin.expect("the consumers fit together"), id, release))
    }

    async fn pause(&mut self, consumer: usize) -> Verdict {
        let Some(release) = self.releases.get(consumer).and_then(|all| all.last()) else {
            return Ok(());
        };
        let (id, release) = ((NAMES[consumer], release.version), release.clone());
        let admin = self
            .builder(self.database.store.clone(), &self.code())
            .admin();
        let admin = admin.expect("the consumers fit together");
        allowed("pause", id, admin.pause(target(id)).await)?;
        if !self.model.is_enrolled(id) {
            // One that never ran gets its checkpoint.
            self.enrolled(id, &release).await?;
        }
        Ok(())
    }

    /// A command has made a checkpoint. Where transactions are open, only that tells what is settled.
    async fn enrolled(&mut self, id: Id, release: &Release) -> Verdict {
        let rows = self.look().await?.rows;
        let own = rows.iter().filter(|row| row.id == id);
        let position = own.map(|row| row.position).min();
        let is_known = self.writers.is_empty();
        let settled = if is_known { None } else { position };
        self.model
            .enroll(id.0, release, settled.unwrap_or(self.settled()));
        Ok(())
    }

    pub(super) async fn resume(&mut self, id: Option<Id>) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        allowed("resume", id, admin.resume(target(id)).await)
    }

    pub(super) async fn accept_scope(&mut self, id: Option<Id>) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        allowed("accept_scope", id, admin.accept_scope(target(id)).await)
    }

    async fn merge(&mut self, consumer: usize) -> Verdict {
        let mut code = self.code();
        let name = NAMES[consumer % CONSUMERS];
        for (_, release) in code.iter_mut().filter(|one| one.0 == name) {
            release.segments = 1;
        }
        let Some((_, release)) = code.iter().rfind(|one| one.0 == name) else {
            return Ok(());
        };
        let id = (name, release.version);
        let mut work = self.begin(&code, Some(self.settled()));
        let store = self.database.store.clone();
        let worker = Running::start(self.builder(store.clone(), &code));
        self.until_reached(&worker, &work).await?;
        let seen = self.look().await?;
        // Rows whose scope is another one never come to one position.
        let scope = sorted(release.scope.iter().copied());
        let fits = |row: &Row| sorted(row.scope.iter()) == scope;
        if seen.rows_of(id).all(fits) {
            self.merge_rows(id, &worker, &seen).await?;
            work.target = Some(self.settled());
            self.until_reached(&worker, &work).await?;
        }
        worker.stop().await;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)
    }

    /// Merges the rows of a version. A row that is ahead of what this worker knows to be settled waits for the
    /// transactions that may still fill gaps before it.
    async fn merge_rows(&mut self, id: Id, worker: &Running<DB>, seen: &Observed) -> Verdict {
        let admin = Admin::new(self.database.store.clone());
        let merge = admin.merge_segments(target(id), 1);
        let ahead = seen.rows_of(id).map(|row| row.position).max();
        let waits = ahead.is_some_and(|ahead| ahead > self.settled_in(seen));
        let end_writers = async {
            while waits && !self.writers.is_empty() {
                self.end(End::Commit, 0).await;
            }
        };
        let merge = tokio::time::timeout(timeout(), merge);
        let (merged, ()) = tokio::join!(merge, end_writers);
        let seen = self.look().await?;
        let rows: Vec<&Row> = seen.rows_of(id).collect();
        match merged {
            Ok(Ok(1)) => Ok(()),
            Ok(Ok(left)) => Err(format!("{left} segments are left of {id:?}")),
            Ok(Err(AdminError::Worker(WorkerError::NotRunning { .. })))
                if rows.iter().any(|row| row.state != "running") =>
            {
                Ok(())
            }
            Ok(Err(AdminError::Worker(WorkerError::WaitingForRelease { event, .. })))
                if rows
                    .iter()
                    .any(|row| row.unknown_position == Some(event.position)) =>
            {
                Ok(())
            }
            Ok(Err(error)) => Err(format!("merging {id:?}: {error}")),
            Err(_) => Err(format!(
                "stuck: merging {id:?}, settled up to {}: {rows:?}, {:?}",
                seen.frontier,
                worker.health()
            )),
        }
    }

    /// Tries all parked events of a consumer again while a worker is in the middle of a batch, at the call of
    /// that number.
    pub(super) async fn retry_amid(&mut self, consumer: usize, calls: usize) -> Verdict {
        let operator = self.operator(self.newest(consumer));
        let Some((admin, id, _)) = operator.filter(|(_, id, _)| self.model.may_retry(*id)) else {
            return self.run().await;
        };
        let code = self.code();
        let mut work = self.begin(&code, Some(self.settled()));
        work.retried = Some(id);
        let fuse = Fuse::new(calls, Some(id.0));
        let fuse = self.world.set_fuse(fuse);
        let worker = Running::start(self.builder(self.database.store.clone(), &code));
        tokio::select! {
            () = fuse.ended() => {}
            reached = self.until_enough(&worker, &work) => reached?,
        }
        let retried = self.retry(&admin, id, None).await;
        self.world.remove_fuse();
        retried?;
        self.until_reached(&worker, &work).await?;
        worker.stop().await;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.ran(&work, seen)
    }

    /// Tries all parked events of a consumer again, or the one at a position.
    async fn retry(&self, admin: &Admin<DB>, id: Id, position: Option<i64>) -> Verdict {
        let retry = admin.retry_parked(target(id), position);
        let retried = tokio::time::timeout(timeout(), retry).await;
        let retried = retried.map_err(|_| format!("stuck: retrying {id:?}"))?;
        if !retried
            .as_ref()
            .is_ok_and(|retried| retried.failed.is_empty())
        {
            // An event that fails keeps those before it parked.
            self.world.allow_repeats(id.0, id.1);
        }
        allowed("retry_parked", id, retried)
    }

    async fn rebuild(&mut self, id: Option<Id>, which: usize) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        let parked = self.model.parked(id).len();
        let discard = which % 2 == 1;
        // A worker that died while a handler without `tx` was busy keeps the row for a while.
        let mut options = RebuildOptions::new().wait(timeout());
        if discard {
            options = options.discard_parked();
        }
        if which % 4 > 1 && !is_transactional(id.0) {
            options = options.without_reset();
            // What it has handled stays, and is handled again.
            self.world.allow_repeats_of_all(id.0, id.1);
        }
        let rebuilt = admin.rebuild(target(id), options).await;
        match rebuilt {
            Err(AdminError::WouldDiscard { .. }) if parked > 0 && !discard => return Ok(()),
            Ok(_) if parked > 0 && !discard => {
                return Err(format!(
                    "a rebuild of {id:?} discarded {parked} events unasked"
                ));
            }
            rebuilt => allowed("rebuild", id, rebuilt)?,
        }
        self.model.rebuild(id);
        Ok(())
    }

    pub(super) async fn retry_parked(&mut self, id: Option<Id>, which: usize) -> Verdict {
        let Some((admin, id, release)) = self.operator(id) else {
            return Ok(());
        };
        let parked = self.model.parked(id);
        let one = parked.get(which % parked.len().max(1)).copied();
        let one = one.filter(|_| which % 3 == 1);
        let code = [(id.0, release)];
        let mut work = self.begin(&code, Some(0));
        self.retry(&admin, id, one).await?;
        self.end_of(&mut work);
        let seen = self.look().await?;
        self.model.retried(id, &work, one, seen)
    }

    async fn skip_parked(&mut self, id: Option<Id>, which: usize) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        let parked = self.model.parked(id);
        let Some(position) = parked.get(which % parked.len().max(1)).copied() else {
            return Ok(());
        };
        let skipped = admin.skip_parked(target(id), position).await;
        allowed("skip_parked", id, skipped)?;
        self.model.skip_parked(id, position);
        Ok(())
    }

    /// Parks or skips the event at which a consumer has stopped, or before which it waits for another release.
    async fn get_past(&mut self, id: Option<Id>, which: usize, parks: bool) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        let rows = self.model.seen().rows_of(id);
        let positions: Vec<i64> = rows.filter_map(Row::halted_at).collect();
        let Some(position) = positions.get(which % positions.len().max(1)).copied() else {
            return Ok(());
        };
        let (what, done) = if parks {
            ("park", admin.park(target(id), position).await)
        } else {
            ("skip", admin.skip(target(id), position).await)
        };
        match done {
            Err(AdminError::NotNext { .. }) if self.model.has_unhandled_before(id, position) => {}
            Err(_) if parks && self.model.is_unreadable(position) => {}
            done => {
                allowed(what, id, done)?;
                self.model.pass(id, position, parks);
            }
        }
        Ok(())
    }

    async fn activate(&mut self, id: Option<Id>, which: usize) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        let options = ActivateOptions::new();
        if which % 2 == 1 {
            let activated = admin.activate(target(id), options.force()).await;
            allowed("activate", id, activated)?;
            self.model.activate(id.0, id.1);
            return Ok(());
        }
        match admin.activate(target(id), options).await {
            Err(AdminError::Behind { .. } | AdminError::HasParked { .. }) => {}
            activated => {
                allowed("activate", id, activated)?;
                self.model.activate(id.0, id.1);
            }
        }
        Ok(())
    }

    async fn forget_oldest(&mut self, consumer: usize, which: usize) -> Verdict {
        let rows = self.model.seen().rows.iter();
        let own = rows.filter(|row| NAMES.get(consumer) == Some(&row.id.0));
        match own.map(|row| row.id).min() {
            Some(id) => self.forget(id, which % 2 == 1, true).await.map(drop),
            None => Ok(()),
        }
    }

    /// Gives a consumer a name that none has, and its own again.
    async fn rename(&mut self, id: Option<Id>) -> Verdict {
        let Some((admin, id, _)) = self.operator(id) else {
            return Ok(());
        };
        let other = format!("{} for a moment", id.0).replace(' ', "_");
        allowed("rename", id, admin.rename(id.0, &*other).await)?;
        allowed("rename", id, admin.rename(&*other, id.0).await)
    }

    /// Forgets a version, and says whether that was not refused. Unless by force, its name is retired.
    async fn forget(&mut self, id: Id, discard: bool, by_force: bool) -> Verdict<bool> {
        let parked = self.model.parked(id).len();
        let admin = Admin::new(self.database.store.clone());
        let mut options = ForgetOptions::new();
        if by_force {
            options = options.force();
        }
        if discard {
            options = options.discard_parked();
        }
        match admin.forget(target(id), options).await {
            Err(
                AdminError::Active { .. }
                | AdminError::Unknown { .. }
                | AdminError::UnknownVersion { .. },
            ) => return Ok(false),
            Err(AdminError::WouldDiscard { .. }) if parked > 0 && !discard => return Ok(false),
            Ok(()) if parked > 0 && !discard => {
                return Err(format!(
                    "forgetting {id:?} dropped {parked} parked events unasked"
                ));
            }
            forgotten => allowed("forget", id, forgotten)?,
        }
        self.model.forget(id);
        let (name, version) = id;
        if name == FOLD && self.tables().await.of_versions.contains_key(&version) {
            return Err(format!("the table of {id:?} is left"));
        }
        let sql = format!(
            "DELETE FROM history_applied WHERE consumer = '{name}' AND version = {version}"
        );
        self.database.execute(&sql).await;
        let mut outside = self.world.outside.lock().unwrap();
        outside.forget(id);
        Ok(true)
    }

    /// Forgets the newest version of a consumer, and makes its checkpoint anew.
    pub(super) async fn restart(&mut self, consumer: usize) -> Verdict {
        let Some((admin, id, release)) = self.operator(self.newest(consumer)) else {
            return Ok(());
        };
        if self.forget(id, false, false).await? {
            match admin.pause(target(id)).await {
                Err(AdminError::HeldBack { .. }) => {}
                other => return Err(format!("{id:?} is not held back: {other:?}")),
            }
            allowed("start_new", id, admin.start_new(target(id)).await)?;
            self.enrolled(id, &release).await?;
        }
        Ok(())
    }

    /// Gives a command that changes nothing, and compares what it says.
    async fn inspect(&self, command: Command, id: Option<Id>, which: usize) -> Verdict {
        let Some((admin, id, release)) = self.operator(id) else {
            return Ok(());
        };
        let parked = self.model.parked(id);
        let agrees = match command {
            Command::Parked => {
                let listed = admin.parked(target(id)).await.map_err(in_words)?;
                listed.iter().map(|one| one.position).eq(parked)
            }
            Command::ParkedEvent => match parked.get(which % parked.len().max(1)) {
                Some(position) if !self.model.is_unreadable(*position) => {
                    let found = admin.parked_event(target(id), *position).await;
                    let (one, event) = found.map_err(in_words)?;
                    let at = event.map(|event| event.global_position);
                    (one.position, at) == (*position, Some(*position))
                }
                _ => true,
            },
            Command::Explain => {
                let mut log = self.model.seen().log.keys().copied().cycle();
                match log.nth(which) {
                    Some(position) if !self.model.is_unreadable(position) => {
                        let explained = admin.explain(target(id), position).await;
                        let outcome = explained.map_err(in_words)?.outcome;
                        matches!(outcome, Outcome::Parked { .. }) == parked.contains(&position)
                    }
                    _ => true,
                }
            }
            Command::ActiveVersion => {
                let active = admin.active_version(id.0).await.map_err(in_words)?;
                active == self.model.seen().active(id.0)
            }
            Command::WatchRebuild => {
                let watch = admin.watch_rebuild(target(id)).await;
                let looked = watch.map_err(in_words)?.look().await;
                let progress = looked.map_err(in_words)?;
                progress.handled <= progress.total
            }
            Command::StatusSince => {
                let before = admin.status().await.map_err(in_words)?;
                let status = admin.status_since(&before).await.map_err(in_words)?;
                status.consumer(id.0).is_some()
            }
            Command::Status => self.status_agrees(&admin, id).await?,
            Command::UnknownEvents => {
                let unknown = admin.unknown_events().await.map_err(in_words)?;
                let mut unknown = unknown.iter();
                let is_listed =
                    unknown.any(|one| (&*one.consumer.name, one.consumer.version) == id);
                is_listed == self.model.has_unknown(&release)
            }
            _ => {
                let frontier = admin.frontier().await.map_err(in_words)?;
                let last = self.model.seen().log.keys().next_back();
                let is_known = frontier.problem.is_none();
                is_known && frontier.head >= last.copied().unwrap_or(0)
            }
        };
        if agrees {
            Ok(())
        } else {
            Err(format!(
                "`{}` of {id:?} differs from the model",
                command.name()
            ))
        }
    }

    async fn status_agrees(&self, admin: &Admin<DB>, id: Id) -> Verdict<bool> {
        let status = admin.status().await.map_err(in_words)?;
        let mut all = status.consumers.iter();
        let Some(own) = all.find(|one| (&*one.id.name, one.id.version) == id) else {
            return Ok(false);
        };
        let rows: Vec<&Row> = self.model.seen().rows_of(id).collect();
        let is_paused = rows.iter().all(|row| row.state == "paused");
        let position = rows.iter().map(|row| row.position).min();
        // A worker beside may advance idle rows meanwhile.
        let after = self.look().await?;
        let position_after = after.rows_of(id).map(|row| row.position).min();
        Ok((position..=position_after).contains(&own.position)
            && own.parked == self.model.parked(id).len() as u64
            && (own.state == ConsumerState::Paused || !is_paused))
    }
}

fn in_words(error: AdminError) -> String {
    format!("a command that changes nothing failed: {error}")
}

/// A step that must not be refused.
fn allowed<T>(what: &str, id: Id, done: Result<T, AdminError>) -> Verdict {
    done.map(drop).map_err(|error| {
        let causes: Vec<String> =
            std::iter::successors(std::error::Error::source(&error), |cause| cause.source())
                .map(ToString::to_string)
                .collect();
        format!("`{what}` of {id:?} failed: {error} {causes:?}")
    })
}

fn target(id: Id) -> Target {
    Target::new(id.0).version(id.1)
}

fn sorted<S: Into<String>>(scope: impl Iterator<Item = S>) -> Vec<String> {
    let mut scope: Vec<String> = scope.map(Into::into).collect();
    scope.sort_unstable();
    scope
}
