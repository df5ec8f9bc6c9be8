//! What each verb does.

use std::time::{Duration, Instant};

use clap::CommandFactory as _;
use serde::Serialize;

use super::args::{Activate, Forget, Format, Migrate, Parked, Run, Status, Verb, Which};
use super::console::Console;
use super::{Cli, Exit, Trouble, own_name, rebuild, tables};
use crate::admin::{Admin, AdminBackend, ConsumerState, Status as Seen, Target};
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
}

impl Verb {
    pub(super) async fn run<DB: AdminBackend>(
        self,
        mut builder: WorkerBuilder<DB>,
        console: &Console,
    ) -> Done {
        if let Self::Completions(completions) = self {
            let mut script = Vec::new();
            let mut command = Cli::command();
            clap_complete::generate(completions.shell, &mut command, own_name(), &mut script);
            console.line(String::from_utf8_lossy(&script));
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
                admin.pause(which.target()).await?;
                console.line(format!("{} is paused", which.name));
                Ok(Exit::Done)
            }
            Self::Resume(which) => {
                admin.resume(which.target()).await?;
                console.line(format!("{} goes on", which.name));
                Ok(Exit::Done)
            }
            Self::Rebuild(rebuild) => rebuild::run(rebuild, builder, &admin, console).await,
            Self::AcceptScope(which) => {
                admin.accept_scope(which.target()).await?;
                console.line(format!("{} goes on with the scope of the code", which.name));
                Ok(Exit::Done)
            }
            Self::Activate(activate) => activate.run(&admin, console).await,
            Self::Parked(parked) => parked.run(&admin, console).await,
            Self::Frontier(format) => frontier(&format, &admin, console).await,
            Self::Forget(forget) => forget.run(&admin, console).await,
            Self::Migrate(migrate) => migrate.run(&admin, console).await,
            Self::Completions(_) => Ok(Exit::Done),
        }
    }
}

impl Run {
    async fn run<DB: AdminBackend>(
        self,
        mut builder: WorkerBuilder<DB>,
        console: &Console,
    ) -> Done {
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
    fn check<DB: AdminBackend>(&self, builder: &WorkerBuilder<DB>) -> Result<(), Trouble> {
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

impl Status {
    async fn run<DB: AdminBackend>(self, admin: &Admin<DB>, console: &Console) -> Done {
        let Some(seconds) = self.watch else {
            let seen = admin.status().await?;
            if self.format.json {
                console.line(serde_json::to_string_pretty(&seen)?);
            } else {
                console.line(tables::status(console, &seen, None));
            }
            return Ok(verdict(&seen));
        };
        let pause = Duration::try_from_secs_f64(seconds.max(0.1)).unwrap_or(Duration::from_secs(1));
        let mut before: Option<(Instant, Seen)> = None;
        loop {
            let (now, seen) = (Instant::now(), admin.status().await?);
            if self.format.json {
                console.line(serde_json::to_string(&seen)?);
            } else {
                let rates = rates(before.as_ref(), now, &seen);
                let screen = tables::status(console, &seen, Some(&rates));
                console.clear();
                console.line(screen);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown_signal() => return Ok(verdict(&seen)),
            }
            before = Some((now, seen));
        }
    }
}

/// How many positions a second each consumer went on, since the look before.
fn rates(before: Option<&(Instant, Seen)>, now: Instant, seen: &Seen) -> Vec<f64> {
    let rate = |one: &crate::admin::ConsumerStatus| {
        let (then, before) = before?;
        let same = |other: &&crate::admin::ConsumerStatus| {
            other.name == one.name && other.version == one.version
        };
        let moved = one.position? - before.consumers.iter().find(same)?.position?;
        #[allow(clippy::cast_precision_loss)] // a rate for people
        let moved = moved.max(0) as f64;
        Some(moved / (now - *then).as_secs_f64())
    };
    let rates = seen.consumers.iter().map(rate);
    rates.map(Option::unwrap_or_default).collect()
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
    async fn run<DB: AdminBackend>(self, admin: &Admin<DB>, console: &Console) -> Done {
        let target = Target::new(&*self.name).version(self.version);
        admin.activate(target, self.force).await?;
        console.line(format!(
            "{}: version {} serves now",
            self.name, self.version
        ));
        Ok(Exit::Done)
    }
}

impl Parked {
    async fn run<DB: AdminBackend>(self, admin: &Admin<DB>, console: &Console) -> Done {
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
                let is_well = retried.failed.is_empty();
                Ok(if is_well { Exit::Done } else { Exit::Unwell })
            }
            Self::Skip {
                which,
                position,
                confirmed,
            } => {
                let question = format!(
                    "{} will never handle event {position}. Skip it?",
                    which.name
                );
                ask(console, confirmed.yes, &question)?;
                let behind = admin.skip_parked(which.target(), position).await?;
                console.line(format!("event {position} is skipped"));
                if behind > 0 {
                    console.line(format!(
                        "{} of its aggregate still parked: `parked retry {}` handles what is left",
                        events(behind),
                        which.name
                    ));
                }
                Ok(Exit::Done)
            }
        }
    }
}

fn events(count: u64) -> String {
    match count {
        1 => "1 event".to_owned(),
        _ => format!("{} events", tables::number(count)),
    }
}

async fn frontier<DB: AdminBackend>(format: &Format, admin: &Admin<DB>, console: &Console) -> Done {
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
    async fn run<DB: AdminBackend>(self, admin: &Admin<DB>, console: &Console) -> Done {
        let question = format!(
            "This removes the checkpoint of {} and what it has parked. Go on?",
            self.which.name
        );
        ask(console, self.confirmed.yes, &question)?;
        admin.forget(self.which.target(), self.force).await?;
        console.line(format!("{} is forgotten", self.which.name));
        Ok(Exit::Done)
    }
}

impl Migrate {
    async fn run<DB: AdminBackend>(self, admin: &Admin<DB>, console: &Console) -> Done {
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
