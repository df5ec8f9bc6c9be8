//! What several of the example programs need; the programs are in `src/bin`.

pub mod quickstart;
