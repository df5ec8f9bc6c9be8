//! Steps that lead to each other: single steps, chosen one by one, seldom come to where these do.

use consumer::{OnError, StartFrom};
use fastrand::Rng;

use super::command::Command;
use super::step::{Append, Crash, Knowledge, Release, Script, Step};

/// The consumer whose scope changes.
const SCOPED: usize = 1;
/// The consumer that ignores its transaction.
const OUTSIDE: usize = 2;
/// The consumer whose rows the library keeps.
const FOLDING: usize = 3;

/// Chooses one of the chains for a consumer.
pub(super) fn chain(rng: &mut Rng, consumer: usize) -> Vec<Step> {
    match rng.u32(..5) {
        0 => merge_of_different_ranges(rng),
        1 => merge_after_a_retry(rng, consumer),
        2 => start_over(rng, consumer),
        3 => replace_a_version(rng),
        _ => retry_amid_a_batch(rng),
    }
}

/// A scope is accepted while rows are at different positions, so that what they have handled since begins
/// at different positions too. Then they are merged, and everything is handled again.
fn merge_of_different_ranges(rng: &mut Rng) -> Vec<Step> {
    let before = Release {
        scope: vec!["Account"],
        segments: 2 << rng.u32(..3),
        on_error: OnError::Stop,
        ..release(rng)
    };
    let after = Release {
        scope: vec!["Account", "Order"],
        ..before.clone()
    };
    vec![
        Step::Deploy(SCOPED, before, false),
        Step::Run,
        Step::Command(Command::AcceptScope, SCOPED, 0),
        append_anywhere(rng),
        append(rng.usize(..3) * 2, Script::Fail),
        append_anywhere(rng),
        append_anywhere(rng),
        Step::Run,
        Step::Deploy(SCOPED, after, false),
        Step::Command(Command::AcceptScope, SCOPED, 0),
        Step::Repair(rng.usize(..16)),
        Step::Repair(rng.usize(..16)),
        Step::Command(Command::Resume, SCOPED, 0),
        Step::Run,
        Step::Command(Command::MergeSegments, SCOPED, 0),
        Step::Command(Command::Rebuild, SCOPED, 1),
        Step::Run,
    ]
}

/// A row is split while one of its events waits for a retry, and its parts are merged.
fn merge_after_a_retry(rng: &mut Rng, consumer: usize) -> Vec<Step> {
    let one = Release {
        retries: 8,
        segments: 1,
        ..release(rng)
    };
    let several = Release {
        segments: 2 << rng.u32(..3),
        ..one.clone()
    };
    vec![
        Step::Deploy(consumer, one, false),
        Step::Command(Command::MergeSegments, consumer, 0),
        append(rng.usize(..6), Script::FailFirst(rng.u32(4..8))),
        Step::CrashAfter(rng.usize(2..16), Crash::Drop),
        Step::Deploy(consumer, several, false),
        Step::Beside(vec![append_anywhere(rng)]),
        Step::Command(Command::MergeSegments, consumer, 0),
    ]
}

/// A consumer is forgotten and starts anew while a worker has nothing left to handle for it.
fn start_over(rng: &mut Rng, consumer: usize) -> Vec<Step> {
    vec![
        Step::Deploy(consumer, release(rng), false),
        append(rng.usize(..3) * 2, Script::Succeed),
        Step::Beside(vec![Step::Restart(consumer)]),
    ]
}

/// A read model gets a second version beside the first, which is activated, and the first one is forgotten.
fn replace_a_version(rng: &mut Rng) -> Vec<Step> {
    let first = Release {
        version: 1,
        ..release(rng)
    };
    let second = Release {
        version: 2,
        ..release(rng)
    };
    vec![
        Step::Deploy(FOLDING, first, false),
        append_anywhere(rng),
        Step::Run,
        Step::Deploy(FOLDING, second, true),
        append_anywhere(rng),
        Step::Run,
        Step::Command(Command::Activate, FOLDING, rng.usize(..2)),
        append_anywhere(rng),
        Step::Run,
        Step::Command(Command::Forget, FOLDING, 1),
        Step::Run,
    ]
}

/// Parked events are tried again while a batch is in progress that has events to park behind them.
fn retry_amid_a_batch(rng: &mut Rng) -> Vec<Step> {
    let parks = Release {
        on_error: OnError::Park,
        batch_size: 100,
        ..release(rng)
    };
    // Two aggregates whose slices are close to each other, so that most often one row has both.
    let (failing, other) = [(0, 4), (3, 5), (1, 2)][rng.usize(..3)];
    vec![
        Step::Deploy(OUTSIDE, parks, false),
        append(failing, Script::FailFirst(1)),
        Step::Run,
        append(other, Script::Succeed),
        append(failing, Script::Succeed),
        Step::RetryAmid(OUTSIDE, 1),
    ]
}

/// A release that makes one attempt at each event.
fn release(rng: &mut Rng) -> Release {
    Release {
        version: rng.u32(1..=2),
        scope: vec![],
        segments: 1 << rng.u32(..4),
        on_error: [OnError::Stop, OnError::Park, OnError::Skip][rng.usize(..3)],
        retries: 0,
        batch_size: [1, 3, 100][rng.usize(..3)],
        in_batches: false,
        of_new: Knowledge::BothVersions,
        start_from: StartFrom::Beginning,
    }
}

fn append(aggregate: usize, script: Script) -> Step {
    Step::Append(Append::Plain, aggregate, vec![script])
}

fn append_anywhere(rng: &mut Rng) -> Step {
    append(rng.usize(..6), Script::Succeed)
}
