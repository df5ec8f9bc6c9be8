//! The command `rebuild`.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time;

use super::args::Rebuild;
use super::console::Console;
use super::error::{CommandError, Outcome};
use super::exit::Exit;
use super::progress::Screen;
use crate::admin::text::{count, number};
use crate::admin::{
    Admin, AdminError, ConsumerId, ConsumerState, RebuildOptions, RebuildProgress, RebuildWatch,
};
use crate::backend::Backend;
use crate::worker::{BuildError, Worker, WorkerBuilder, shutdown_signal};

impl Rebuild {
    pub(super) async fn run<DB: Backend>(
        self,
        builder: WorkerBuilder<DB>,
        admin: &Admin<DB>,
        console: &Console,
    ) -> Outcome {
        let (consumer, is_new) = self.find(admin).await?;
        let screen = Screen::new(console, &consumer);
        // Before anything is emptied: a worker that cannot be built could not fill it again.
        let runs_here = !self.watch && !self.no_run && admin.has_code(&consumer);
        let worker = if runs_here {
            Some(worker_of(&consumer, builder)?)
        } else {
            None
        };
        if !self.watch && !is_new {
            self.begin(&consumer, admin, console).await?;
        }
        let watch = admin.watch_rebuild(&consumer).await?;
        let rebuilding = Rebuilding {
            admin,
            consumer: &consumer,
            screen: &screen,
        };
        match worker {
            Some(worker) => rebuilding.work(worker, watch).await,
            None => rebuilding.follow(watch).await,
        }
    }

    /// Finds the consumer; the second value says whether it starts now for the first time, as a
    /// new version.
    async fn find<DB: Backend>(
        &self,
        admin: &Admin<DB>,
    ) -> Result<(ConsumerId, bool), CommandError> {
        let target = self.consumer.target();
        if self.watch {
            return Ok((admin.find(target).await?, false));
        }
        match admin.find_to_rebuild(target).await {
            Err(AdminError::NeverRan { consumer }) => Err(CommandError::NothingToRebuild(consumer)),
            found => Ok(found?),
        }
    }

    /// Begins a rebuild, or continues one that is in progress: a killed command can be run again.
    async fn begin<DB: Backend>(
        &self,
        consumer: &ConsumerId,
        admin: &Admin<DB>,
        console: &Console,
    ) -> Result<(), CommandError> {
        let progress = admin.watch_rebuild(consumer).await?.look().await?;
        // A rebuild cannot continue with another scope; a new one takes that of the code.
        let has_other_scope = admin.has_other_scope(consumer).await?;
        if !progress.is_done && !self.restart && !has_other_scope {
            return resume(consumer, progress, admin, console).await;
        }
        if !has_other_scope && !admin.has_begun(consumer).await? {
            return Err(CommandError::NothingToRebuild(consumer.clone()));
        }
        let options = self.options();
        let parked = admin.may_rebuild(consumer, options).await?;
        let question = self.question(consumer, progress, has_other_scope, parked);
        let missing = admin.missing_at_the_beginning().await?;
        let question = missing.map_or_else(String::new, lacks) + &question;
        console.confirm(self.confirmed.yes, &question)?;
        admin.rebuild(consumer, options).await?;
        Ok(())
    }

    fn options(&self) -> RebuildOptions {
        let mut options = RebuildOptions::new().wait(Duration::from_secs(self.wait));
        if self.beginning.without_reset {
            options = options.without_reset();
        }
        if self.beginning.discard_parked {
            options = options.discard_parked();
        }
        options
    }

    fn question(
        &self,
        consumer: &ConsumerId,
        progress: RebuildProgress,
        has_other_scope: bool,
        parked: u64,
    ) -> String {
        let empties = if self.beginning.without_reset {
            format!("This keeps the read model of {consumer}")
        } else {
            format!("This empties the read model of {consumer}")
        };
        let scope = if has_other_scope {
            ", takes the scope in the code"
        } else {
            ""
        };
        let delivers = match parked {
            0 => String::new(),
            parked => format!(", delivers {} again as new", count(parked, "parked event")),
        };
        let up_to = number(progress.position.max(progress.replay_to));
        format!("{empties}{scope}{delivers} and replays its events up to {up_to}. Continue?")
    }
}

/// The missing part of a rebuild.
fn lacks(missing: RangeInclusive<i64>) -> String {
    let (from, to) = (number(*missing.start()), number(*missing.end()));
    format!("Events {from} to {to} are no longer in the log, so it is rebuilt without them. ")
}

/// Continues a rebuild that is in progress.
async fn resume<DB: Backend>(
    consumer: &ConsumerId,
    progress: RebuildProgress,
    admin: &Admin<DB>,
    console: &Console,
) -> Result<(), CommandError> {
    let handled = number(progress.handled);
    let total = count(progress.total, "event");
    console.note(format!(
        "continuing the rebuild in progress, {handled} of {total} handled"
    ));
    let state = admin.state_of_one(consumer).await?;
    if matches!(state, ConsumerState::Stopped { .. }) {
        admin.resume(consumer).await?;
    }
    Ok(())
}

fn worker_of<DB: Backend>(
    consumer: &ConsumerId,
    mut builder: WorkerBuilder<DB>,
) -> Result<Worker<DB>, BuildError> {
    builder.retain(|one| {
        let declaration = &one.declaration;
        declaration.name == consumer.name && declaration.version == consumer.version
    });
    builder.build()
}

/// A rebuild that has begun.
struct Rebuilding<'a, DB: Backend> {
    admin: &'a Admin<DB>,
    consumer: &'a ConsumerId,
    screen: &'a Screen<'a>,
}

impl<DB: Backend> Rebuilding<'_, DB> {
    /// Runs the consumer here, beside other workers that run it too.
    async fn work(&self, worker: Worker<DB>, watch: RebuildWatch<'_, DB>) -> Outcome {
        let handle = worker.handle();
        let mut working = std::pin::pin!(worker.run(std::future::pending()));
        let exit = tokio::select! {
            ended = &mut working => {
                ended?;
                return Ok(Exit::Unwell);
            }
            exit = self.follow(watch) => exit?,
        };
        handle.shut_down();
        working.await?;
        Ok(exit)
    }

    /// Shows the progress until the rebuild is done or cannot continue.
    async fn follow(&self, mut watch: RebuildWatch<'_, DB>) -> Outcome {
        let mut interrupted = std::pin::pin!(shutdown_signal());
        loop {
            let progress = watch.look().await?;
            self.screen.show(progress)?;
            if progress.is_done {
                self.screen.done(progress);
                if self.admin.is_inactive(self.consumer).await? {
                    self.screen.suggest_activation();
                }
                return Ok(Exit::Done);
            }
            if let Some(reason) = self.obstacle().await? {
                self.screen.leave(&reason);
                return Ok(Exit::Unwell);
            }
            tokio::select! {
                () = time::sleep(self.screen.pause()) => {}
                () = &mut interrupted => {
                    self.screen.leave("interrupted; run the same command to continue the rebuild");
                    return Ok(Exit::Unwell);
                }
            }
        }
    }

    /// Why no worker will continue.
    async fn obstacle(&self) -> Result<Option<String>, AdminError> {
        Ok(match self.admin.state_of_one(self.consumer).await? {
            ConsumerState::Forgotten => Some("the checkpoint is gone".to_owned()),
            ConsumerState::Stopped { error, .. } => Some(format!("the consumer stopped: {error}")),
            // What the row says may be older than the worker of a release that knows it.
            ConsumerState::WaitingForRelease { event }
                if self.admin.knows(self.consumer, &event) =>
            {
                None
            }
            ConsumerState::WaitingForRelease { event } => Some(format!(
                "the consumer waits for a release that knows {event}; continue the rebuild with that release"
            )),
            ConsumerState::Paused => Some("the consumer is paused; run `resume`".to_owned()),
            ConsumerState::ScopeChanged { .. } => Some(
                "the rebuild began with another scope than this program's; continue it with the \
                 program that began it, or run `rebuild --restart`"
                    .to_owned(),
            ),
            _ => None,
        })
    }
}
