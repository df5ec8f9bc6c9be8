//! Rebuilding, and showing how far that is.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::time;

use super::args::Rebuild;
use super::console::Console;
use super::{Exit, Trouble, tables, verbs};
use crate::admin::choice::Choice;
use crate::admin::{
    Admin, AdminError, ConsumerState, RebuildOptions, RebuildProgress, RebuildWatch,
};
use crate::backend::Backend;
use crate::worker::{BuildError, Worker, WorkerBuilder, shutdown_signal};

/// How often a terminal is drawn anew.
const FRAME: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(1);

pub(super) async fn run<DB: Backend>(
    rebuild: Rebuild,
    builder: WorkerBuilder<DB>,
    admin: &Admin<DB>,
    console: &Console,
) -> Result<Exit, Trouble> {
    let target = rebuild.which.target();
    let (choice, is_new) = if rebuild.watch {
        (admin.choose(target).await?, false)
    } else {
        admin.choose_or_enroll(target).await?
    };
    let screen = Screen::new(console, &choice);
    // Before anything is emptied: a worker that cannot be put together could not fill it again.
    let runs_here = !rebuild.watch && !rebuild.no_run && admin.has_code(&choice);
    let worker = if runs_here {
        Some(worker_of(&choice, builder)?)
    } else {
        None
    };
    if !rebuild.watch && !is_new {
        begin(&rebuild, &choice, admin, console).await?;
    }
    let watch = admin.watch_rebuild(choice.target()).await?;
    match worker {
        Some(worker) => work(worker, watch, admin, &choice, &screen).await,
        None => follow(watch, admin, &choice, &screen).await,
    }
}

fn worker_of<DB: Backend>(
    choice: &Choice,
    mut builder: WorkerBuilder<DB>,
) -> Result<Worker<DB>, BuildError> {
    let target = choice.target();
    builder.retain(|one| target.means(&one.declaration));
    builder.build()
}

/// Begins a rebuild, unless one is under way already: a command that was killed goes on.
async fn begin<DB: Backend>(
    rebuild: &Rebuild,
    choice: &Choice,
    admin: &Admin<DB>,
    console: &Console,
) -> Result<(), Trouble> {
    let progress = admin.watch_rebuild(choice.target()).await?.look().await?;
    let state = admin.state_of_one(choice).await?.map(|(state, _)| state);
    // Nobody goes on with another scope: it has to begin anew, which takes that of the code.
    let has_other_scope = admin.has_other_scope(choice).await?;
    if !progress.is_done && !rebuild.restart && !has_other_scope {
        let handled = tables::number(progress.handled);
        let total = tables::number(progress.total);
        console.note(format!(
            "a rebuild is under way, {handled} of {total} events: going on"
        ));
        if state == Some(ConsumerState::Stopped) {
            admin.resume(choice.target()).await?;
        }
        return Ok(());
    }
    let mut options = RebuildOptions::new().wait(Duration::from_secs(rebuild.wait));
    if rebuild.beginning.without_reset {
        options = options.without_reset();
    }
    if rebuild.beginning.discard_parked {
        options = options.discard_parked();
    }
    let parked = admin.may_rebuild(choice, options).await?;
    let question = question(rebuild, choice, progress, has_other_scope, parked);
    verbs::ask(console, rebuild.confirmed.yes, &question)?;
    admin.rebuild(choice.target(), options).await?;
    Ok(())
}

fn question(
    rebuild: &Rebuild,
    choice: &Choice,
    progress: RebuildProgress,
    has_other_scope: bool,
    parked: u64,
) -> String {
    let label = &choice.label;
    let empties = if rebuild.beginning.without_reset {
        format!("This leaves what {label} has written")
    } else {
        format!("This empties {label}")
    };
    let scope = if has_other_scope {
        ", takes the scope of the code"
    } else {
        ""
    };
    let discards = match parked {
        0 => String::new(),
        parked => format!(", gives up {} that it has parked", verbs::events(parked)),
    };
    let up_to = tables::number(progress.position.max(progress.replay_to));
    format!("{empties}{scope}{discards} and replays its events up to {up_to}. Go on?")
}

/// Runs the consumer here, beside any worker that has it too: whoever has the row goes on.
async fn work<DB: Backend>(
    worker: Worker<DB>,
    watch: RebuildWatch<'_, DB>,
    admin: &Admin<DB>,
    choice: &Choice,
    screen: &Screen<'_>,
) -> Result<Exit, Trouble> {
    let handle = worker.handle();
    let mut working = std::pin::pin!(worker.run(std::future::pending()));
    let exit = tokio::select! {
        ended = &mut working => {
            ended?;
            return Ok(Exit::Unwell);
        }
        exit = follow(watch, admin, choice, screen) => exit?,
    };
    handle.shut_down();
    working.await?;
    Ok(exit)
}

/// Shows how far it is until it is done, or will not get there.
async fn follow<DB: Backend>(
    mut watch: RebuildWatch<'_, DB>,
    admin: &Admin<DB>,
    choice: &Choice,
    screen: &Screen<'_>,
) -> Result<Exit, Trouble> {
    let mut stopped = std::pin::pin!(shutdown_signal());
    loop {
        let progress = watch.look().await?;
        screen.show(progress)?;
        if progress.is_done {
            screen.done(progress);
            if admin.is_beside(choice).await? {
                screen.hint(choice);
            }
            return Ok(Exit::Done);
        }
        if let Some(reason) = stands_still(admin, choice).await? {
            screen.leave(&reason);
            return Ok(Exit::Unwell);
        }
        tokio::select! {
            () = time::sleep(screen.pause()) => {}
            () = &mut stopped => {
                screen.leave("the rebuild is not done: the same command goes on where it is now");
                return Ok(Exit::Unwell);
            }
        }
    }
}

/// Why nobody will go on with it.
async fn stands_still<DB: Backend>(
    admin: &Admin<DB>,
    choice: &Choice,
) -> Result<Option<String>, AdminError> {
    let Some((state, error)) = admin.state_of_one(choice).await? else {
        return Ok(Some("the checkpoint is gone".to_owned()));
    };
    Ok(match state {
        ConsumerState::Stopped => Some(format!("the consumer stopped: {error}")),
        ConsumerState::Paused => Some("the consumer is paused: `resume` lets it go on".to_owned()),
        ConsumerState::ScopeChanged => Some(
            "the scope in the code is not the one that the rebuild began with: rebuild it from \
             where that code is, or `rebuild --restart`"
                .to_owned(),
        ),
        _ => None,
    })
}

/// A bar on a terminal, and lines of JSON elsewhere.
struct Screen<'a> {
    console: &'a Console,
    choice: &'a Choice,
    bar: Option<ProgressBar>,
}

impl<'a> Screen<'a> {
    fn new(console: &'a Console, choice: &'a Choice) -> Self {
        let bar = console.is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = if console.has_colour {
                "{percent:>3} % {wide_bar:.cyan} {msg}"
            } else {
                "{percent:>3} % {wide_bar} {msg}"
            };
            // A template of ours: one that cannot be read leaves the default.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar
        });
        Self {
            console,
            choice,
            bar,
        }
    }

    fn pause(&self) -> Duration {
        if self.bar.is_some() { FRAME } else { LINE }
    }

    fn show(&self, progress: RebuildProgress) -> Result<(), Trouble> {
        let Some(bar) = &self.bar else {
            let line = json!({
                "consumer": self.choice.target().consumer,
                "version": self.choice.version(),
                "handled": progress.handled,
                "total": progress.total,
                "position": progress.position,
                "replay_to": progress.replay_to,
                "rate": progress.rate,
                "remaining_seconds": progress.remaining.map(|left| left.as_secs_f64()),
                "done": progress.is_done,
            });
            self.console.line(serde_json::to_string(&line)?);
            return Ok(());
        };
        bar.set_length(progress.total);
        bar.set_position(progress.handled);
        let left = progress.remaining.map_or_else(
            || "no estimate yet".to_owned(),
            |left| format!("{} left", tables::duration(left)),
        );
        bar.set_message(format!(
            "{} of {}, {}/s, {left}",
            tables::number(progress.handled),
            tables::number(progress.total),
            tables::rounded(progress.rate),
        ));
        Ok(())
    }

    fn done(&self, progress: RebuildProgress) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            let handled = tables::number(progress.handled);
            self.console.line(format!(
                "{}: {handled} events handled again",
                self.choice.label
            ));
        }
    }

    /// Says what is left to do once a version has caught up beside the one that serves.
    fn hint(&self, choice: &Choice) {
        let (consumer, version) = (choice.target().consumer, choice.version());
        self.console.note(format!(
            "another version serves: `activate {consumer} {version}` makes it this one"
        ));
    }

    fn leave(&self, reason: &str) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
        self.console
            .note(format!("{}: {reason}", self.choice.label));
    }
}
