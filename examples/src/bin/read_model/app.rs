//! Two releases of a program with a read model, one after the other, and the rebuild between them.
//!
//! The code is the same on both databases, since it contains no SQL.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use consumer::admin::{ActivateOptions, Admin, ForgetOptions, Target};
use consumer::prelude::*;
use consumer::{Backend, EventStore, Registered};
use serde::{Deserialize, Serialize};

use crate::{first, second};

/// Everything that can happen to a user.
#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
pub(crate) enum UserEvent {
    Registered { email: String },
    EmailChanged { email: String },
    Deleted,
}

/// Runs the first release, rebuilds the read model for the second one, and runs that; after the first run
/// of this program, only the second one.
pub(crate) async fn run<DB: Backend>(store: EventStore<DB>) -> anyhow::Result<()> {
    store.migrate().await?;
    let admin = Admin::new(store.clone());
    let ada = append_some_events(&store).await?;
    if admin.active_version("users").await? != Some(2) {
        run_first_release(&store, &ada).await?;
        rebuild_beside(&store, &admin, &ada).await?;
    }
    run_second_release(&store, &ada).await
}

/// Appends the events of two users, which are new ones in each run; the second one is deleted. Returns the
/// id of the first.
async fn append_some_events<DB: Backend>(store: &EventStore<DB>) -> anyhow::Result<String> {
    let run = store
        .latest_global_position(&mut *store.pool().acquire().await?)
        .await?;
    let email = |address: &str| address.to_owned();
    let registered = |address| UserEvent::Registered {
        email: email(address),
    };
    let changed = |address| UserEvent::EmailChanged {
        email: email(address),
    };
    let ada = format!("ada-{run}");
    let bob = format!("bob-{run}");
    for (id, event) in [
        (&ada, registered("ada@example.com")),
        (&bob, registered("bob@example.com")),
        (&ada, changed("ada@example.org")),
        (&bob, UserEvent::Deleted),
    ] {
        let event = NewEvent::typed(&event)?.of(&**id);
        store.append(ExpectedVersion::Any, &[event]).await?;
    }
    Ok(ada)
}

async fn run_first_release<DB: Backend>(store: &EventStore<DB>, ada: &str) -> anyhow::Result<()> {
    let worker = Worker::builder(store.clone()).consumer(first::Users);
    print!("{}", worker.build()?.run_once().await?);
    let user = first::User::find(store.pool(), ada).await?;
    let user = user.context("the read model has no such user")?;
    println!("version 1: {} {}", user.id, user.email);
    Ok(())
}

/// In a program that contains one release, `discover()` takes the version from the attribute.
fn second_release<DB: Backend>() -> Registered<DB> {
    Registered::new(second::Users).version(2)
}

/// Version 2 fills a table of its own, while queries read version 1.
async fn rebuild_beside<DB: Backend>(
    store: &EventStore<DB>,
    admin: &Admin<DB>,
    ada: &str,
) -> anyhow::Result<()> {
    let worker = Worker::builder(store.clone()).registered(second_release());
    print!("{}", worker.build()?.run_once().await?);
    // The view still shows version 1, and a struct of version 2 does not fit.
    ensure!(first::User::find(store.pool(), ada).await?.is_some());
    if let Err(error) = second::User::find(store.pool(), ada).await {
        println!("not yet: {error}");
    }
    // This is refused while version 2 is behind.
    let users = |version| Target::new("users").version(version);
    admin.activate(users(2), ActivateOptions::new()).await?;
    // When no process runs the first release any more. This drops the table of version 1.
    admin.forget(users(1), ForgetOptions::new()).await?;
    println!("version 2 is active, and version 1 is forgotten");
    Ok(())
}

/// Reads its own write: a change that a worker applies while this waits.
async fn run_second_release<DB: Backend>(store: &EventStore<DB>, ada: &str) -> anyhow::Result<()> {
    let worker = Worker::builder(store.clone()).registered(second_release());
    let worker = worker.build()?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));

    let email = "ada@example.net".to_owned();
    let changed = NewEvent::typed(&UserEvent::EmailChanged { email })?.of(ada);
    let appended = store.append(ExpectedVersion::Any, &[changed]).await?;
    let position = appended.first().context("no event")?.global_position;
    let timeout = Duration::from_mins(1);
    let user = store
        .find_as_of::<second::User>(ada, position, timeout)
        .await?
        .context("the read model has no such user")?;
    println!(
        "version 2: {} {} after {} changes",
        user.id, user.email, user.changes
    );

    handle.shut_down();
    print!("{}", running.await??);
    Ok(())
}
