//! Rebuilding, and showing how far that is.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::time;

use super::args::Rebuild;
use super::console::Console;
use super::{Exit, Trouble, tables, verbs};
use crate::admin::{
    Admin, AdminBackend, AdminError, ConsumerState, RebuildOptions, RebuildProgress, RebuildWatch,
    Target,
};
use crate::worker::{WorkerBuilder, shutdown_signal};

/// How often a terminal is drawn anew.
const FRAME: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(1);

pub(super) async fn run<DB: AdminBackend>(
    rebuild: Rebuild,
    builder: WorkerBuilder<DB>,
    admin: &Admin<DB>,
    console: &Console,
) -> Result<Exit, Trouble> {
    let target = begin(&rebuild, admin, console).await?;
    let watch = admin.watch_rebuild(target.clone()).await?;
    let screen = Screen::new(console, &rebuild.which.name);
    if rebuild.no_run {
        return follow(watch, admin, &target, &screen).await;
    }
    work(builder, watch, admin, &target, &screen).await
}

/// Begins a rebuild, unless one is under way already: a command that was killed goes on.
async fn begin<DB: AdminBackend>(
    rebuild: &Rebuild,
    admin: &Admin<DB>,
    console: &Console,
) -> Result<Target, Trouble> {
    let target = rebuild.which.target();
    let mut watch = admin.watch_rebuild(target.clone()).await?;
    let progress = watch.look().await?;
    if !progress.is_done && !rebuild.restart {
        let handled = tables::number(progress.handled);
        let total = tables::number(progress.total);
        console.note(format!(
            "a rebuild is under way, {handled} of {total} events: going on"
        ));
        if let Some((ConsumerState::Stopped, _)) = admin.state_of_one(&target).await? {
            admin.resume(target.clone()).await?;
        }
        return Ok(target);
    }
    let question = format!(
        "This empties {} and replays its events up to {}. Go on?",
        rebuild.which.name,
        tables::number(progress.position.max(progress.replay_to))
    );
    verbs::ask(console, rebuild.confirmed.yes, &question)?;
    let options = RebuildOptions::new().wait(Duration::from_secs(rebuild.wait));
    let options = if rebuild.without_reset {
        options.without_reset()
    } else {
        options
    };
    admin.rebuild(target.clone(), options).await?;
    Ok(target)
}

/// Runs the consumer here, beside any worker that has it too: whoever has the row goes on.
async fn work<DB: AdminBackend>(
    mut builder: WorkerBuilder<DB>,
    watch: RebuildWatch<'_, DB>,
    admin: &Admin<DB>,
    target: &Target,
    screen: &Screen<'_>,
) -> Result<Exit, Trouble> {
    let has_it = admin.has_code(target).await?;
    if !has_it {
        return follow(watch, admin, target, screen).await;
    }
    builder.retain(|one| target.means(&one.declaration));
    let worker = builder.build()?;
    let handle = worker.handle();
    let mut working = std::pin::pin!(worker.run(std::future::pending()));
    let exit = tokio::select! {
        ended = &mut working => {
            ended?;
            return Ok(Exit::Unwell);
        }
        exit = follow(watch, admin, target, screen) => exit?,
    };
    handle.shut_down();
    working.await?;
    Ok(exit)
}

/// Shows how far it is until it is done, or will not get there.
async fn follow<DB: AdminBackend>(
    mut watch: RebuildWatch<'_, DB>,
    admin: &Admin<DB>,
    target: &Target,
    screen: &Screen<'_>,
) -> Result<Exit, Trouble> {
    let mut stopped = std::pin::pin!(shutdown_signal());
    loop {
        let progress = watch.look().await?;
        screen.show(progress)?;
        if progress.is_done {
            screen.done(progress);
            return Ok(Exit::Done);
        }
        if let Some(reason) = stands_still(admin, target).await? {
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
async fn stands_still<DB: AdminBackend>(
    admin: &Admin<DB>,
    target: &Target,
) -> Result<Option<String>, AdminError> {
    let Some((state, error)) = admin.state_of_one(target).await? else {
        return Ok(Some("the checkpoint is gone".to_owned()));
    };
    Ok(match state {
        ConsumerState::Stopped => Some(format!("the consumer stopped: {error}")),
        ConsumerState::Paused => Some("the consumer is paused: `resume` lets it go on".to_owned()),
        _ => None,
    })
}

/// A bar on a terminal, and lines of JSON elsewhere.
struct Screen<'a> {
    console: &'a Console,
    consumer: &'a str,
    bar: Option<ProgressBar>,
}

impl<'a> Screen<'a> {
    fn new(console: &'a Console, consumer: &'a str) -> Self {
        let bar = console.is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = if console.has_colour {
                "{percent:>3} % {bar:30.cyan} {msg}"
            } else {
                "{percent:>3} % {bar:30} {msg}"
            };
            // A template of ours: one that cannot be read leaves the default.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar
        });
        Self {
            console,
            consumer,
            bar,
        }
    }

    fn pause(&self) -> Duration {
        if self.bar.is_some() { FRAME } else { LINE }
    }

    fn show(&self, progress: RebuildProgress) -> Result<(), Trouble> {
        let Some(bar) = &self.bar else {
            let line = json!({
                "consumer": self.consumer,
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
            || "no end in sight".to_owned(),
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
            self.console
                .line(format!("{}: {handled} events handled again", self.consumer));
        }
    }

    fn leave(&self, reason: &str) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
        self.console.note(format!("{}: {reason}", self.consumer));
    }
}
