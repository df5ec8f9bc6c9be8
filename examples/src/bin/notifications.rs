//! Posts a notification for every user who registers from now on. A rebuild posts none of them again.
//!
//! `HOOK_URL=http://localhost:8080/hook cargo run -p consumer-examples --features services --bin
//! notifications -- run`. The operator's commands are in the same binary: `-- status` shows how far the
//! consumer is, and `-- rebuild welcome_notifier --without-reset` replays the events without posting.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use consumer::cli::Cli;
use consumer::prelude::*;
use serde_json::json;

/// The web hook that receives the notifications.
#[derive(Clone)]
struct Hook {
    url: String,
}

/// Notifies another system of new users.
struct WelcomeNotifier {
    client: reqwest::Client,
    hook: Hook,
}

impl WelcomeNotifier {
    fn connected(dependencies: &Dependencies) -> Result<Self, HandlerError> {
        Ok(Self {
            client: reqwest::Client::new(),
            hook: dependencies.get::<Hook>()?.clone(),
        })
    }
}

#[consumer(
    name = "welcome_notifier",
    aggregates = ["User"],
    // Users who registered before this consumer existed get no notification.
    start_from = "now",
    on_error = "park",
    init = WelcomeNotifier::connected
)]
impl WelcomeNotifier {
    async fn handle(&self, cx: &Context, event: &PersistedEvent) -> Result<(), HandlerError> {
        // Handled before: this event was posted.
        if cx.is_replay() {
            return Ok(());
        }
        let body = json!({"user": event.aggregate_id, "what": &*event.event_type});
        let answer = self
            .client
            .post(&self.hook.url)
            // After a crash a request may be sent twice; the key lets the receiver drop the repeat.
            .header("idempotency-key", event.event_id.to_string())
            .json(&body)
            .send()
            .await?;
        answer.error_for_status()?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if cli.completes(&mut Cli::command()) {
        return Ok(ExitCode::SUCCESS);
    }
    let url = std::env::var("HOOK_URL").unwrap_or_else(|_| "http://127.0.0.1:8080/".to_owned());
    let database = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:web.db".to_owned());
    let store = SqliteEventStore::connect(&database).await?;
    let builder = Worker::builder(store)
        .dependencies(Dependencies::new().with(Hook { url }))
        .discover();
    Ok(cli.run(builder).await)
}
