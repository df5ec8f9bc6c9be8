//! What each verb does.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::args::{Activate, Forget, Format, Merge, Migrate, Parked, Run, Status, Verb, Which};
use super::console::Console;
use super::{Exit, Trouble, rebuild, tables};
use crate::admin::{Admin, AdminError, ConsumerState, Status as Seen, Target};
use crate::backend::Backend;
use crate::worker::{WorkerBuilder, shutdown_signal};

type Done = Result<Exit, Trouble>;

impl Which {
    pub(super) fn target(&self) -> Target {
        let target = Target::new(&*self.name);
        match self.of_version {
            Some(version) => target.version(version),
            None => target,
        }
    }

    /// As it has to be written again.
    pub(super) fn again(&self) -> String {
        match self.of_version {
            Some(version) => format!("{} --of-version {version}", self.name),
            None => self.name.clone(),
        }
    }
}

impl Verb {
    pub(super) async fn run<DB: Backend>(
        self,
        mut builder: WorkerBuilder<DB>,
        console: &Console,
    ) -> Done {
        if let Self::Completions(completions) = self {
            console.line(completions.own_script());
            return Ok(Exit::Done);
        }
        builder.resolve()?;
        let admin = Admin::of(&builder);
        match self {
            Self::Run(run) => run.run(builder, console).await,
            Self::List => {
                console.line(tables::list(console, builder.consumers()));
                Ok(Exit::Done)
            }
            Self::Status(status) => status.run(&admin, console).await,
            Self::Pause(which) => {
                let (choice, _) = admin.choose_or_enroll(which.target()).await?;
                admin.pause(choice.target()).await?;
                console.line(format!("{} is paused", choice.label));
                Ok(Exit::Done)
            }
            Self::Resume(which) => {
                let choice = admin.choose(which.target()).await?;
                admin.resume(choice.target()).await?;
                console.line(format!("{} goes on", choice.label));
                Ok(Exit::Done)
            }
            Self::Rebuild(rebuild) => rebuild::run(rebuild, builder, &admin, console).await,
            Self::AcceptScope(which) => {
                let choice = admin.choose(which.target()).await?;
                admin.accept_scope(choice.target()).await?;
                console.line(format!(
                    "{} goes on with the scope of the code",
                    choice.label
                ));
                Ok(Exit::Done)
            }
            Self::Activate(activate) => activate.run(&admin, console).await,
            Self::Merge(merge) => merge.run(&admin, console).await,
            Self::Parked(parked) => parked.run(&admin, console).await,
            Self::Frontier(format) => frontier(&format, &admin, console).await,
            Self::Forget(forget) => forget.run(&admin, console).await,
            Self::Migrate(migrate) => migrate.run(&admin, console).await,
            Self::Completions(_) => Ok(Exit::Done),
        }
    }
}

impl Run {
    async fn run<DB: Backend>(self, mut builder: WorkerBuilder<DB>, console: &Console) -> Done {
        self.check(&builder)?;
        builder.retain(|one| {
            let declaration = &one.declaration;
            let in_group = self.group.is_none() || declaration.group == self.group.as_deref();
            let is_named =
                self.only.is_empty() || self.only.iter().any(|n| **n == *declaration.name);
            in_group && is_named
        });
        let worker = builder.build()?;
        let report = if self.once {
            worker.run_once().await?
        } else {
            worker.run(shutdown_signal()).await?
        };
        console.line(report.to_string().trim_end());
        Ok(if report.has_failures() {
            Exit::Unwell
        } else {
            Exit::Done
        })
    }

    /// A name or a group that nobody has is a mistake, not an empty choice.
    fn check<DB: Backend>(&self, builder: &WorkerBuilder<DB>) -> Result<(), Trouble> {
        let known = builder.consumers();
        for name in &self.only {
            if !known.iter().any(|one| *one.declaration.name == **name) {
                let known: Vec<&str> = known.iter().map(|one| &*one.declaration.name).collect();
                return Err(Trouble::Usage(format!(
                    "there is no consumer `{name}` in this program; it has: {}",
                    known.join(", ")
                )));
            }
        }
        let Some(group) = self.group.as_deref() else {
            return Ok(());
        };
        let mut groups: Vec<&str> = known
            .iter()
            .filter_map(|one| one.declaration.group)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        if groups.contains(&group) {
            return Ok(());
        }
        let groups = if groups.is_empty() {
            "none".to_owned()
        } else {
            groups.join(", ")
        };
        Err(Trouble::Usage(format!(
            "no consumer is in group `{group}`; there are: {groups}"
        )))
    }
}

/// How long two looks are apart that a rate is taken from.
const APART: Duration = Duration::from_secs(1);

impl Status {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Done {
        if let Some(seconds) = self.watch {
            return self.watch(seconds, admin, console).await;
        }
        let seen = admin.status().await?;
        if !self.format.json {
            console.line(tables::status(console, &seen));
            return Ok(verdict(&seen));
        }
        tokio::time::sleep(APART).await;
        let seen = admin.status_since(&seen).await?;
        console.line(serde_json::to_string_pretty(&seen)?);
        Ok(verdict(&seen))
    }

    /// Looks again and again, until it is asked to end or nobody reads it any more.
    async fn watch<DB: Backend>(&self, seconds: f64, admin: &Admin<DB>, console: &Console) -> Done {
        let pause = Duration::try_from_secs_f64(seconds.max(0.1)).unwrap_or(APART);
        let mut stopped = std::pin::pin!(shutdown_signal());
        let mut before: Option<Seen> = None;
        loop {
            let looked = match &before {
                Some(before) => admin.status_since(before).await,
                None => admin.status().await,
            };
            let is_read = match &looked {
                Ok(seen) if self.format.json => console.reached(serde_json::to_string(seen)?),
                Ok(seen) => console.redraw(&tables::status(console, seen)),
                // A database that is away is what somebody may be watching for.
                Err(error) if self.format.json => {
                    console.reached(json!({ "error": error.to_string() }).to_string())
                }
                Err(error) => console.redraw(&format!("error: {error}; looking again")),
            };
            before = looked.ok().or(before);
            let exit = || before.as_ref().map_or(Exit::Failed, verdict);
            if !is_read {
                return Ok(exit());
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut stopped => return Ok(exit()),
            }
        }
    }
}

fn verdict(seen: &Seen) -> Exit {
    let is_unwell = |state: &ConsumerState| {
        matches!(state, ConsumerState::Stopped | ConsumerState::ScopeChanged)
    };
    if seen.frontier.problem.is_some() || seen.consumers.iter().any(|one| is_unwell(&one.state)) {
        Exit::Unwell
    } else {
        Exit::Done
    }
}

impl Activate {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Done {
        let target = Target::new(&*self.name).version(self.version);
        admin.activate(target, self.force).await?;
        console.line(format!(
            "{}: version {} serves now",
            self.name, self.version
        ));
        Ok(Exit::Done)
    }
}

impl Merge {
    /// Can be ended at any time: what is one by then stays one.
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Done {
        let choice = admin.choose(self.which.target()).await?;
        let merge = admin.merge_segments(choice.target(), self.segments);
        let merged = tokio::select! {
            merged = merge => merged?,
            () = shutdown_signal() => {
                console.line(format!(
                    "{} still has more segments than that; a worker has to run it, and none may be set to more",
                    choice.label
                ));
                return Ok(Exit::Failed);
            }
        };
        let segments = if merged == 1 { "segment" } else { "segments" };
        console.line(format!("{} has {merged} {segments}", choice.label));
        Ok(Exit::Done)
    }
}

impl Parked {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Done {
        match self {
            Self::List { which, format } => {
                let events = admin.parked(which.target()).await?;
                show(console, &format, &events, || {
                    tables::parked(console, &events)
                })
            }
            Self::Show { which, position } => {
                let (parked, event) = admin.parked_event(which.target(), position).await?;
                console.line(tables::parked_event(&parked, event.as_ref()));
                Ok(Exit::Done)
            }
            Self::Retry { which, position } => {
                let retried = admin.retry_parked(which.target(), position).await?;
                for failed in &retried.failed {
                    console.line(failed.to_string());
                }
                console.line(format!("{} handled", events(retried.handled)));
                let by_database =
                    |error: &AdminError| matches!(error, AdminError::Interrupted { .. });
                Ok(if retried.failed.is_empty() {
                    Exit::Done
                } else if retried.failed.iter().all(by_database) {
                    Exit::Failed
                } else {
                    Exit::Unwell
                })
            }
            Self::Skip {
                which,
                position,
                confirmed,
            } => {
                let choice = admin.choose(which.target()).await?;
                admin.parked_event(choice.target(), position).await?;
                let question = format!(
                    "{} will never handle event {position}. Skip it?",
                    choice.label
                );
                ask(console, confirmed.yes, &question)?;
                let behind = admin.skip_parked(choice.target(), position).await?;
                console.line(format!("event {position} is skipped"));
                if behind > 0 {
                    console.line(format!(
                        "{} of its aggregate still parked: `parked retry {}` handles what is left",
                        events(behind),
                        which.again()
                    ));
                }
                Ok(Exit::Done)
            }
        }
    }
}

pub(super) fn events(count: u64) -> String {
    match count {
        1 => "1 event".to_owned(),
        _ => format!("{} events", tables::number(count)),
    }
}

async fn frontier<DB: Backend>(format: &Format, admin: &Admin<DB>, console: &Console) -> Done {
    let frontier = admin.frontier().await?;
    show(console, format, &frontier, || tables::frontier(&frontier))
}

fn show(
    console: &Console,
    format: &Format,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Done {
    if format.json {
        console.line(serde_json::to_string_pretty(value)?);
    } else {
        console.line(text());
    }
    Ok(Exit::Done)
}

impl Forget {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Done {
        let choice = admin.choose(self.which.target()).await?;
        admin.may_forget(&choice, self.force).await?;
        let question = format!(
            "This removes the checkpoint of {} and what it has parked. Go on?",
            choice.label
        );
        ask(console, self.confirmed.yes, &question)?;
        admin.forget(choice.target(), self.force).await?;
        console.line(format!("{} is forgotten", choice.label));
        Ok(Exit::Done)
    }
}

impl Migrate {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Done {
        if self.print {
            console.line(admin.store().migration_sql().trim_end());
            return Ok(Exit::Done);
        }
        admin.store().migrate().await?;
        console.line("the tables are up to date");
        Ok(Exit::Done)
    }
}

/// Goes on only with somebody's yes.
pub(super) fn ask(console: &Console, yes: bool, question: &str) -> Result<(), Trouble> {
    if yes || console.confirms(question) {
        Ok(())
    } else {
        Err(Trouble::Declined)
    }
}
