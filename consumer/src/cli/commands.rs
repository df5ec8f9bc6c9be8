//! The shorter commands; the others have a file of their own.

use serde::Serialize;

use super::args::{
    Activate, Command, Consumer, EventOf, Explain, Forget, Format, Merge, Migrate, Redact, Rename,
    SkipEvent, StartNew,
};
use super::console::Console;
#[cfg(not(feature = "dashboard"))]
use super::error::CommandError;
use super::error::Outcome;
use super::exit::Exit;
use super::tables;
use crate::admin::{ActivateOptions, Admin, ForgetOptions, Target, text};
use crate::backend::{Backend, older_libraries_sql};
use crate::store::Redaction;
use crate::worker::{WorkerBuilder, shutdown_signal};

impl Command {
    pub(super) async fn run<DB: Backend>(
        self,
        mut builder: WorkerBuilder<DB>,
        console: &Console,
    ) -> Outcome {
        if let Self::Completions(completions) = &self {
            // Consumers that do not fit together are no reason to complete nothing.
            let _ = builder.resolve();
            let consumers = builder.consumers().iter();
            let names: Vec<&str> = consumers.map(|one| &*one.declaration.name).collect();
            return Ok(print(console, completions.own_script(&names)));
        }
        #[cfg(not(feature = "dashboard"))]
        if let Self::Dashboard(_) = &self {
            return Err(CommandError::NoDashboard);
        }
        builder.resolve()?;
        let admin = Admin::with_code(&builder);
        match self {
            Self::Run(run) => run.run(builder, console).await,
            Self::List(format) => {
                let consumers = builder.consumers();
                show(console, &format, &tables::declarations(consumers), || {
                    tables::list(console, consumers)
                })
            }
            Self::Migrate(migrate) => migrate.run(&admin, console).await,
            command => {
                // Otherwise the first statement that misses a table would be the message.
                admin.store().check().await?;
                match command {
                    Self::Rebuild(rebuild) => rebuild.run(builder, &admin, console).await,
                    #[cfg(feature = "dashboard")]
                    Self::Dashboard(dashboard) => dashboard.run(admin, console).await,
                    command => command.operate(&admin, console).await,
                }
            }
        }
    }

    /// Runs a command that needs no worker.
    async fn operate<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        match self {
            Self::Status(status) => status.run(admin, console).await,
            Self::Pause(consumer) => pause(&consumer, admin, console).await,
            Self::Resume(consumer) => resume(&consumer, admin, console).await,
            Self::Park(event) => park(&event, admin, console).await,
            Self::Skip(skip) => skip_event(&skip, admin, console).await,
            Self::AcceptScope(consumer) => accept_scope(&consumer, admin, console).await,
            Self::Activate(activate) => activate.run(admin, console).await,
            Self::Merge(merge) => merge.run(admin, console).await,
            Self::Parked(parked) => parked.run(admin, console).await,
            Self::Redact(redact) => redact.run(admin, console).await,
            Self::Frontier(format) => frontier(&format, admin, console).await,
            Self::Explain(explain) => explain.run(admin, console).await,
            Self::Unknown(format) => unknown(&format, admin, console).await,
            Self::Rename(rename) => rename.run(admin, console).await,
            Self::StartNew(start) => start.run(admin, console).await,
            Self::Forget(forget) => forget.run(admin, console).await,
            // `run` has handled these.
            Self::Run(_)
            | Self::Dashboard(_)
            | Self::List(_)
            | Self::Rebuild(_)
            | Self::Migrate(_)
            | Self::Completions(_) => Ok(Exit::Done),
        }
    }
}

async fn pause<DB: Backend>(consumer: &Consumer, admin: &Admin<DB>, console: &Console) -> Outcome {
    let consumer = admin.find_or_enroll(consumer.target()).await?;
    admin.pause(&consumer).await?;
    Ok(print(console, format!("{consumer} is paused")))
}

async fn resume<DB: Backend>(consumer: &Consumer, admin: &Admin<DB>, console: &Console) -> Outcome {
    let consumer = admin.find(consumer.target()).await?;
    admin.resume(&consumer).await?;
    Ok(print(console, format!("{consumer} is resumed")))
}

async fn accept_scope<DB: Backend>(
    consumer: &Consumer,
    admin: &Admin<DB>,
    console: &Console,
) -> Outcome {
    let consumer = admin.find(consumer.target()).await?;
    admin.accept_scope(&consumer).await?;
    Ok(print(
        console,
        format!("{consumer} continues with the scope in the code"),
    ))
}

async fn park<DB: Backend>(event: &EventOf, admin: &Admin<DB>, console: &Console) -> Outcome {
    let consumer = admin.find(event.consumer.target()).await?;
    let position = event.position;
    admin.park(&consumer, position).await?;
    Ok(print(
        console,
        format!(
            "event {position} is parked and {consumer} is resumed; `parked retry {} {position}` handles it later",
            event.consumer
        ),
    ))
}

async fn skip_event<DB: Backend>(
    skip: &SkipEvent,
    admin: &Admin<DB>,
    console: &Console,
) -> Outcome {
    let consumer = admin.find(skip.event.consumer.target()).await?;
    let position = skip.event.position;
    admin.may_skip(&consumer, position).await?;
    let question = format!(
        "{consumer} will never handle event {position}; `park` sets it aside for later. Skip it?"
    );
    console.confirm(skip.confirmed.yes, &question)?;
    admin.skip(&consumer, position).await?;
    Ok(print(
        console,
        format!("event {position} is skipped and {consumer} is resumed"),
    ))
}

impl Activate {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        let target = Target::new(&*self.name).version(self.version);
        let mut options = ActivateOptions::new();
        if self.force {
            options = options.force();
        }
        admin.activate(target, options).await?;
        Ok(print(
            console,
            format!("{} v{} is the active version", self.name, self.version),
        ))
    }
}

impl Merge {
    /// Can be interrupted at any time: segments that are merged by then stay merged.
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        let consumer = admin.find(self.consumer.target()).await?;
        let merged = tokio::select! {
            merged = admin.merge_segments(&consumer, self.segments) => merged?,
            () = shutdown_signal() => {
                console.line(format!(
                    "interrupted: {consumer} still has more segments; a worker must be running it, and no worker may be set to more than {}",
                    self.segments
                ));
                return Ok(Exit::Failed);
            }
        };
        let segments = text::count(merged as u64, "segment");
        Ok(print(console, format!("{consumer} has {segments}")))
    }
}

async fn frontier<DB: Backend>(format: &Format, admin: &Admin<DB>, console: &Console) -> Outcome {
    let frontier = admin.frontier().await?;
    show(console, format, &frontier, || tables::frontier(&frontier))
}

impl Explain {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        let EventOf { consumer, position } = &self.event;
        let explanation = admin.explain(consumer.target(), *position).await?;
        let event = admin.event_at(*position).await?;
        show(console, &self.format, &explanation, || {
            tables::explanation(&explanation, event.as_ref())
        })
    }
}

async fn unknown<DB: Backend>(format: &Format, admin: &Admin<DB>, console: &Console) -> Outcome {
    let events = admin.unknown_events().await?;
    let shown = show(console, format, &events, || {
        tables::unknown(console, &events)
    })?;
    Ok(if events.is_empty() {
        shown
    } else {
        Exit::Unwell
    })
}

impl Forget {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        let consumer = admin.find(self.consumer.target()).await?;
        let mut options = ForgetOptions::new();
        if self.force {
            options = options.force();
        }
        if self.discard_parked {
            options = options.discard_parked();
        }
        let parked = admin.may_forget(&consumer, options).await?;
        let discards = match parked {
            0 => String::new(),
            parked => format!(" and discards {}", text::count(parked, "parked event")),
        };
        let drops = match admin.table_of(&consumer).await? {
            None => String::new(),
            Some(table) => format!(", drops the table `{table}`"),
        };
        let question =
            format!("This removes the checkpoint of {consumer}{drops}{discards}. Continue?");
        console.confirm(self.confirmed.yes, &question)?;
        admin.forget(&consumer, options).await?;
        Ok(print(console, format!("{consumer} is forgotten")))
    }
}

impl Redact {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        let position = self.position;
        let question =
            format!("The payload of event {position} will be deleted permanently. Replace it?");
        // Nothing is asked about an event that there is not.
        let exists = admin.event_at(position).await?.is_some();
        console.confirm(self.confirmed.yes || !exists, &question)?;
        let mut redaction = Redaction::new(self.payload);
        if self.without_metadata {
            redaction = redaction.without_metadata();
        }
        admin.redact(position, redaction).await?;
        Ok(print(
            console,
            format!(
                "event {position} is redacted; workers drop the old payload within their `snapshot_interval` (1 s by default)"
            ),
        ))
    }
}

impl Rename {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        let Self { old, new } = self;
        admin.rename(&*old, &*new).await?;
        Ok(print(
            console,
            format!("{old} is renamed to {new}; `rename {new} {old}` takes it back"),
        ))
    }
}

impl StartNew {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        let consumer = &self.consumer;
        admin.may_start_new(&consumer.target()).await?;
        let question = format!(
            "{consumer} starts with a checkpoint of its own and does not continue from another checkpoint. Continue?"
        );
        console.confirm(self.confirmed.yes, &question)?;
        admin.start_new(consumer.target()).await?;
        Ok(print(
            console,
            format!("{consumer} starts with a checkpoint of its own"),
        ))
    }
}

impl Migrate {
    async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        let store = admin.store();
        if self.print {
            let mut script = admin.migration_sql();
            if self.refuse_older || self.accept_older {
                script.push_str(&older_libraries_sql(store.settings(), self.refuse_older));
            }
            return Ok(print(console, script.trim_end()));
        }
        store.migrate().await?;
        let older = if self.refuse_older {
            store.refuse_older_libraries().await?;
            ", and programs with an older version of the library are refused"
        } else if self.accept_older {
            store.accept_older_libraries().await?;
            ", and programs with an older version of the library are accepted"
        } else {
            ""
        };
        Ok(print(console, format!("the tables are up to date{older}")))
    }
}

/// Prints a line, and is done.
pub(super) fn print(console: &Console, line: impl AsRef<str>) -> Exit {
    console.line(line);
    Exit::Done
}

/// Prints a value as JSON or as text, and is done.
pub(super) fn show(
    console: &Console,
    format: &Format,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Outcome {
    if format.json {
        console.json(&serde_json::to_string_pretty(value)?);
        Ok(Exit::Done)
    } else {
        Ok(print(console, text()))
    }
}
