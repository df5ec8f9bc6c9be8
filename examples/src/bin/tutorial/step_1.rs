//! The program of the tutorial guide after its first step: it appends two events and prints the log.
//!
//! `cargo run -p consumer-examples --bin tutorial_1`. The database is `bank.db` in the current
//! directory; the programs of the later steps continue with it.

mod events;

use consumer::prelude::*;
use events::AccountEvent;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let store = SqliteEventStore::connect("sqlite:bank.db").await?;
    store.migrate().await?;

    let owner = "Ada".to_owned();
    let history = [
        NewEvent::typed(&AccountEvent::Opened { owner })?.of("acc-1"),
        NewEvent::typed(&AccountEvent::Deposited { cents: 5000 })?.of("acc-1"),
    ];
    store.append(ExpectedVersion::Any, &history).await?;

    let mut connection = store.pool().acquire().await?;
    for event in store.read_events(&mut connection, 0, 100).await? {
        let (position, payload) = (event.global_position, event.json::<serde_json::Value>()?);
        println!(
            "{position} {} {} {payload}",
            event.aggregate_id, event.event_type
        );
    }
    Ok(())
}
