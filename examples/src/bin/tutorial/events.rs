//! The events of the tutorial's bank.

use consumer::prelude::*;
use serde::{Deserialize, Serialize};

/// Everything that can happen to an account.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(aggregate = "Account")]
pub(crate) enum AccountEvent {
    Opened { owner: String },
    Deposited { cents: i64 },
    Withdrawn { cents: i64 },
}
