//! The command line of the tutorial's bank.

use std::process::ExitCode;

use anyhow::ensure;
use clap::Parser;
use consumer::cli::Cli;
use consumer::prelude::*;

use crate::balances;
use crate::events::AccountEvent;

/// A bank
#[derive(Parser)]
pub(crate) enum Program {
    /// Opens an account
    Open { account: String, owner: String },
    /// Deposits an amount
    Deposit { account: String, cents: i64 },
    /// Withdraws an amount, if the account covers it
    Withdraw { account: String, cents: i64 },
    /// Prints what is in each account
    Balances,
    /// Runs and operates the consumers
    Consumers(Cli),
}

impl Program {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let store = SqliteEventStore::connect("sqlite:bank.db").await?;
        store.migrate().await?;
        match self {
            Self::Open { account, owner } => {
                let opened = NewEvent::typed(&AccountEvent::Opened { owner })?.of(account);
                store.append(ExpectedVersion::NoStream, &[opened]).await?;
            }
            Self::Deposit { account, cents } => {
                let deposited = NewEvent::typed(&AccountEvent::Deposited { cents })?.of(account);
                store.append(ExpectedVersion::Any, &[deposited]).await?;
            }
            Self::Withdraw { account, cents } => withdraw(&store, account, cents).await?,
            Self::Balances => balances::print(&store).await?,
            Self::Consumers(cli) => return Ok(cli.run(Worker::builder(store).discover()).await),
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn withdraw(store: &SqliteEventStore, account: String, cents: i64) -> anyhow::Result<()> {
    let mut connection = store.pool().acquire().await?;
    let history = store
        .read_aggregate(
            &mut connection,
            AccountEvent::AGGREGATE_TYPE,
            &account,
            None,
            None,
        )
        .await?;
    drop(connection);

    let (mut balance, mut version) = (0, 0);
    for event in &history {
        version = event.aggregate_version;
        match AccountEvent::decode(event)? {
            AccountEvent::Opened { .. } => {}
            AccountEvent::Deposited { cents } => balance += cents,
            AccountEvent::Withdrawn { cents } => balance -= cents,
        }
    }
    ensure!(balance >= cents, "`{account}` has only {balance}");

    let withdrawn = NewEvent::typed(&AccountEvent::Withdrawn { cents })?.of(account);
    store
        .append(ExpectedVersion::Exact(version), &[withdrawn])
        .await?;
    Ok(())
}
