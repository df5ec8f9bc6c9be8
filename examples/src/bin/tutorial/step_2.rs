//! The program of the tutorial guide after its second and third step: it has a read model.
//!
//! `cargo run -p consumer-examples --bin tutorial_2`.

mod balances;
mod events;

use consumer::prelude::*;
use events::AccountEvent;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let store = SqliteEventStore::connect("sqlite:bank.db").await?;
    store.migrate().await?;

    let withdrawn = NewEvent::typed(&AccountEvent::Withdrawn { cents: 1500 })?.of("acc-1");
    store.append(ExpectedVersion::Any, &[withdrawn]).await?;

    let report = Worker::builder(store.clone())
        .discover()
        .build()?
        .run_once()
        .await?;
    print!("{report}");
    balances::print(&store).await?;
    Ok(())
}
