use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
#[serde(into = "u8", from = "u8")]
struct Deleted;

impl From<Deleted> for u8 {
    fn from(_: Deleted) -> Self {
        0
    }
}

impl From<u8> for Deleted {
    fn from(_: u8) -> Self {
        Self
    }
}

fn main() {}
