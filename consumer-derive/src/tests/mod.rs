//! Tests of the pipeline as a whole, on tokens.

mod fuzz;
mod snapshots;
