//! The command `status`, once or again and again.

use crate::contract::chain;
use std::time::Duration;

use serde_json::json;

use super::args::Status as Command;
use super::console::Console;
use super::error::{CommandError, Outcome};
use super::exit::Exit;
use super::tables;
use crate::admin::{Admin, AdminError, ConsumerState, Status};
use crate::backend::Backend;
use crate::worker::Tone;
use crate::worker::shutdown_signal;

/// The time between two looks from which a rate is computed.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

impl Command {
    pub(super) async fn run<DB: Backend>(self, admin: &Admin<DB>, console: &Console) -> Outcome {
        if let Some(seconds) = self.watch {
            return self.watch(seconds, admin, console).await;
        }
        let status = admin.status().await?;
        if !self.format.json {
            console.line(self.text(&status, console));
            return Ok(verdict(&status));
        }
        tokio::time::sleep(RATE_INTERVAL).await;
        let status = admin.status_since(&status).await?;
        console.json(&serde_json::to_string_pretty(&status)?);
        Ok(verdict(&status))
    }

    /// Repeats until it is interrupted, or the output is closed.
    async fn watch<DB: Backend>(
        &self,
        seconds: f64,
        admin: &Admin<DB>,
        console: &Console,
    ) -> Outcome {
        let pause = Duration::try_from_secs_f64(seconds.max(0.1)).unwrap_or(RATE_INTERVAL);
        let mut interrupted = std::pin::pin!(shutdown_signal());
        let mut before: Option<Status> = None;
        loop {
            let status = match &before {
                Some(before) => admin.status_since(before).await,
                None => admin.status().await,
            };
            let is_written = self.show(&status, console)?;
            before = status.ok().or(before);
            let exit = || before.as_ref().map_or(Exit::Failed, verdict);
            if !is_written {
                return Ok(exit());
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut interrupted => return Ok(exit()),
            }
        }
    }

    fn text(&self, status: &Status, console: &Console) -> String {
        let mut text = tables::status(console, status);
        if self.processes {
            text.push_str("\n\n");
            text.push_str(&tables::processes(console, status));
        }
        text
    }

    /// Shows a status, or why there is none: a failing database may be what is being watched.
    fn show(
        &self,
        status: &Result<Status, AdminError>,
        console: &Console,
    ) -> Result<bool, CommandError> {
        Ok(match status {
            Ok(status) if self.format.json => console.json(&serde_json::to_string(status)?),
            Ok(status) => console.redraw(&self.text(status, console)),
            Err(error) if self.format.json => {
                console.json(&json!({ "error": chain(error).to_string() }).to_string())
            }
            Err(error) => console.redraw(&format!("error: {}; trying again", chain(error))),
        })
    }
}

fn verdict(status: &Status) -> Exit {
    let is_unwell = |state: &ConsumerState| {
        state.tone() == Tone::Bad || matches!(state, ConsumerState::WaitingForRelease { .. })
    };
    let mut consumers = status.consumers.iter();
    if status.frontier.problem.is_some()
        || consumers.any(|one| one.missing.is_some() || is_unwell(&one.state))
    {
        Exit::Unwell
    } else {
        Exit::Done
    }
}
