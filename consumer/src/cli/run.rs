//! The command `run`.

use super::args::Run;
use super::console::Console;
use super::error::{CommandError, Outcome};
use super::exit::Exit;
use crate::admin::text::{listed, listed_like};
use crate::backend::Backend;
use crate::worker::{WorkerBuilder, shutdown_signal};

impl Run {
    pub(super) async fn run<DB: Backend>(
        self,
        mut builder: WorkerBuilder<DB>,
        console: &Console,
    ) -> Outcome {
        self.check_names(&builder)?;
        self.check_group(&builder)?;
        builder.retain(|one| {
            let declaration = &one.declaration;
            let in_group = self.group.is_none() || declaration.group == self.group.as_deref();
            let is_named =
                self.only.is_empty() || self.only.iter().any(|name| **name == *declaration.name);
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

    /// Refuses a name that no consumer has.
    fn check_names<DB: Backend>(&self, builder: &WorkerBuilder<DB>) -> Result<(), CommandError> {
        let known = builder.consumers().iter();
        let mut known: Vec<&str> = known.map(|one| &*one.declaration.name).collect();
        known.sort_unstable();
        known.dedup();
        match self
            .only
            .iter()
            .find(|name| !known.contains(&name.as_str()))
        {
            None => Ok(()),
            Some(name) => Err(CommandError::Usage(format!(
                "there is no consumer `{name}` in this program; it has: {}",
                listed_like(name, &known)
            ))),
        }
    }

    /// Refuses a group that no consumer is in.
    fn check_group<DB: Backend>(&self, builder: &WorkerBuilder<DB>) -> Result<(), CommandError> {
        let known = builder.consumers().iter();
        let mut known: Vec<&str> = known.filter_map(|one| one.declaration.group).collect();
        known.sort_unstable();
        known.dedup();
        match &self.group {
            Some(group) if !known.contains(&group.as_str()) => Err(CommandError::Usage(format!(
                "no consumer is in group `{group}`; the groups are: {}",
                listed(&known)
            ))),
            _ => Ok(()),
        }
    }
}
