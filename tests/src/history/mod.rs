//! Random histories on a real database, compared with a reference model.
//!
//! A history is a list of [`Step`]s that follows from a seed. It is played by real writers, workers
//! and operators; after each step a model in memory says what may have become of every event, and
//! at the end everything is repaired and handled. A failure names the seed and the shortest history
//! that still fails.

mod appending;
mod backend;
mod chain;
mod command;
mod execution;
mod folded;
mod losing;
mod model;
mod operator;
mod scripted;
mod step;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

pub use self::backend::HistoryBackend;
pub use self::command::Command;
use self::execution::Execution;
pub use self::step::{
    Append, CONSUMERS, Crash, Damage, End, Knowledge, Menu, Release, Script, Step,
};

/// Names the first seed to play, and the only one unless `HISTORIES` is set too. No random ones are played then.
const SEED: &str = "HISTORY_SEED";
/// Names another number of histories than the test's.
const HISTORIES: &str = "HISTORIES";
/// Names kinds of steps and scripts to leave out, separated by commas.
const WITHOUT: &str = "HISTORY_WITHOUT";

/// Names another number of failures after which no further history is played.
const ENOUGH: &str = "HISTORY_FAILURES";

/// No history takes as long as this unless something hangs.
const LONGEST: Duration = Duration::from_mins(10);

/// For how long random histories begin.
const RANDOM_TIME: Duration = Duration::from_mins(1);

/// How many histories a test plays.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// The same ones each time.
    pub fixed: u64,
    /// Other ones each time, unless the environment names some; fewer where they take more than a minute.
    pub random: u64,
    /// How many are played at once.
    pub at_once: u64,
}

/// The seeds of a test.
struct Seeds {
    fixed: Range<u64>,
    random: Range<u64>,
    next: AtomicU64,
    random_since: OnceLock<Instant>,
}

impl Seeds {
    /// The seeds that a test plays, or those that the environment asks for.
    fn of(count: Count) -> Self {
        let seed = number(SEED);
        let others = number(HISTORIES);
        let first = seed.unwrap_or(0);
        let fixed = others.unwrap_or(if seed.is_some() { 1 } else { count.fixed });
        let is_asked = seed.is_some() || others.is_some();
        // In CI, a failure should point at the change.
        let is_in_ci = std::env::var_os("CI").is_some();
        // Short enough to be typed, and none of the fixed ones.
        let base = fastrand::u64(1_000_000..1_000_000_000);
        Self {
            fixed: first..first + fixed,
            random: base..base
                + if is_asked || is_in_ci {
                    0
                } else {
                    count.random
                },
            next: AtomicU64::new(0),
            random_since: OnceLock::new(),
        }
    }

    fn next(&self) -> Option<u64> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let fixed = self.fixed.end - self.fixed.start;
        if index < fixed {
            return Some(self.fixed.start + index);
        }
        let since = self.random_since.get_or_init(Instant::now);
        let seed = self.random.start + (index - fixed);
        (seed < self.random.end && since.elapsed() < RANDOM_TIME).then_some(seed)
    }
}

/// Plays histories, or those that the environment asks for.
///
/// # Panics
/// When some fail, with their seeds and what is left of the first one after shrinking.
pub async fn play_histories<DB: HistoryBackend>(server: &DB::Server, mut menu: Menu, count: Count) {
    let without = std::env::var(WITHOUT).unwrap_or_default();
    // Most steps have no name.
    let without = without.split(',').filter(|name| !name.is_empty());
    menu.without.extend(without.map(str::to_owned));
    let seeds = Seeds::of(count);
    let enough = number(ENOUGH).unwrap_or(10);
    let failures = Mutex::new(Vec::new());
    let player = async || {
        while let Some(seed) = seeds.next() {
            if failures.lock().unwrap().len() as u64 >= enough {
                return;
            }
            // Boxed, so that the callers' futures stay small.
            let played = Box::pin(play_until::<DB>(server, &menu.steps(seed))).await;
            if let Err((taken, failure)) = played {
                // At once, since shrinking takes its time.
                eprintln!("{SEED}={seed}: {failure}");
                failures.lock().unwrap().push((seed, failure, taken));
            }
        }
    };
    let players = (0..count.at_once).map(|_| player());
    futures_util::future::join_all(players).await;
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    if let Some((seed, failure, taken)) = failures.first() {
        let mut steps = menu.steps(*seed);
        steps.truncate(*taken);
        let shrinking = shrink::<DB>(server, steps, failure.clone());
        let (steps, shrunk) = Box::pin(shrinking).await;
        let steps: Vec<String> = steps.iter().map(|step| format!("    {step:?}")).collect();
        let all: Vec<String> = failures
            .iter()
            .map(|(seed, failure, _)| format!("    {SEED}={seed}: {failure}"))
            .collect();
        panic!(
            "histories failed:\n{}\n{SEED}={seed} still fails with these steps alone ({shrunk}):\n{}",
            all.join("\n"),
            steps.join("\n")
        );
    }
}

/// Plays a history and says what is wrong.
///
/// # Errors
/// The first difference from the model.
pub async fn play<DB: HistoryBackend>(server: &DB::Server, steps: &[Step]) -> Result<(), String> {
    let played = play_until::<DB>(server, steps).await;
    played.map_err(|(_, failure)| failure)
}

/// Also says after how many steps it was wrong.
async fn play_until<DB: HistoryBackend>(
    server: &DB::Server,
    steps: &[Step],
) -> Result<(), (usize, String)> {
    keep_quiet();
    let taken = AtomicUsize::new(0);
    let playing = async {
        let mut execution = Execution::<DB>::new(server).await;
        for (index, step) in steps.iter().enumerate() {
            taken.store(index, Ordering::Relaxed);
            let done = execution.take(step).await;
            done.map_err(|wrong| (index + 1, format!("step {index}: {wrong}")))?;
        }
        taken.store(steps.len(), Ordering::Relaxed);
        let drained = execution.drain().await;
        drained.map_err(|wrong| (steps.len(), format!("at the end: {wrong}")))
    };
    let played = tokio::time::timeout(LONGEST, playing).await;
    played.unwrap_or_else(|_| {
        let index = taken.load(Ordering::Relaxed);
        let stuck = format!("stuck in step {index}: {:?}", steps.get(index));
        Err((steps.len().min(index + 1), stuck))
    })
}

/// Leaves out steps and simplifies others, the later ones first, as long as the history still fails.
async fn shrink<DB: HistoryBackend>(
    server: &DB::Server,
    mut steps: Vec<Step>,
    mut failure: String,
) -> (Vec<Step>, String) {
    let mut length = steps.len();
    loop {
        let before = steps.clone();
        let mut end = steps.len();
        while end > 0 {
            let begin = end.saturating_sub(length);
            for with in instead_of(&steps[begin..end]) {
                let fewer = [&steps[..begin], &with, &steps[end..]].concat();
                if let Some((taken, still)) = fails::<DB>(server, &fewer).await {
                    (steps, failure) = (fewer, still);
                    steps.truncate(taken);
                    break;
                }
            }
            end = begin.min(steps.len());
        }
        if length <= 1 && steps == before {
            return (steps, failure);
        }
        length = (length / 2).max(1);
    }
}

/// After how many steps a history is wrong, and how, in one of a few plays: a timing may decide.
async fn fails<DB: HistoryBackend>(server: &DB::Server, steps: &[Step]) -> Option<(usize, String)> {
    const PLAYS: usize = 4;
    for _ in 0..PLAYS {
        if let Err(failure) = play_until::<DB>(server, steps).await {
            return Some(failure);
        }
    }
    None
}

/// What to try instead of some steps: none, or simpler ones for one of them.
fn instead_of(steps: &[Step]) -> Vec<Vec<Step>> {
    let simpler = match steps {
        [one] => one.simpler(),
        _ => Vec::new(),
    };
    let simpler = simpler.into_iter().map(|step| vec![step]);
    std::iter::once(Vec::new()).chain(simpler).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Keeps the panics of scripts out of the output.
fn keep_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some(scripted::SCRIPTED_PANIC) {
                hook(panic);
            }
        }));
    });
}
