//! Events for the quickstarts to consume, and their screen.

use std::io::{self, Write};

use consumer::{Backend, EventStore, ExpectedVersion, NewEvent, Report, StoreError};

/// Appends what happened to two users and an order, each time to new ones.
///
/// # Errors
/// What the store says.
pub async fn append_some_events<DB: Backend>(store: &EventStore<DB>) -> Result<(), StoreError> {
    let run = store
        .latest_global_position(&mut *store.pool().acquire().await?)
        .await?;
    for name in ["ada", "grace"] {
        let id = format!("{name}-{run}");
        let registered = format!(r#"{{"email":"{name}@example.com"}}"#);
        let changed = format!(r#"{{"email":"{name}@example.org"}}"#);
        let history = [
            NewEvent::new("User", &*id, "UserRegistered", registered),
            NewEvent::new("User", &*id, "EmailChanged", changed),
        ];
        store.append(ExpectedVersion::NoStream, &history).await?;
    }
    let placed = NewEvent::new(
        "Order",
        format!("o-{run}"),
        "OrderPlaced",
        r#"{"total":42}"#,
    );
    store.append(ExpectedVersion::NoStream, &[placed]).await?;
    Ok(())
}

/// Prints the read models and how far each consumer came.
///
/// # Errors
/// When the output is gone.
pub fn print_summary(
    users: &[(String, String, i64)],
    activity: &[(String, i64)],
    report: &Report,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{:<12} {:<20} {:>7}", "user", "email", "changes")?;
    for (id, email, changes) in users {
        writeln!(out, "{id:<12} {email:<20} {changes:>7}")?;
    }
    writeln!(out, "\n{:<33} {:>7}", "activity", "events")?;
    for (kind, events) in activity {
        writeln!(out, "{kind:<33} {events:>7}")?;
    }
    writeln!(
        out,
        "\n{:<30} {:>10} {:>8}  state",
        "consumer", "checkpoint", "events"
    )?;
    for consumer in &report.consumers {
        writeln!(
            out,
            "{:<30} {:>10} {:>8}  {}",
            consumer.name,
            consumer.position.unwrap_or_default(),
            consumer.events,
            consumer.state
        )?;
    }
    Ok(())
}
