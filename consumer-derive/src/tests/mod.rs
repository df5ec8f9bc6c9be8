//! Tests of the pipeline as a whole, on tokens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fuzz;
mod snapshots;
