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
            Self::Withdraw { account, cents } => withdraw(&store, &account, cents).await?,
            Self::Balances => balances::print(&store).await?,
            Self::Consumers(cli) => return Ok(cli.run(Worker::builder(store).discover()).await),
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn withdraw(store: &SqliteEventStore, account: &str, cents: i64) -> anyhow::Result<()> {
    store
        .retry_conflicts(5, |mut tx| async move {
            let history = store.load::<AccountEvent>(&mut tx, account).await?;
            let changes = history.events.iter().map(|event| match event {
                AccountEvent::Opened { .. } => 0,
                AccountEvent::Deposited { cents } => *cents,
                AccountEvent::Withdrawn { cents } => -cents,
            });
            let balance: i64 = changes.sum();
            ensure!(balance >= cents, "`{account}` has only {balance}");

            let withdrawn = [AccountEvent::Withdrawn { cents }];
            store
                .append_typed(&mut tx, account, history.version, &withdrawn)
                .await?;
            Ok((tx, ()))
        })
        .await
}
