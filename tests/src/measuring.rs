//! Shared by the benchmark programs: their arguments, samples taken in turns, and the server.

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::TestPostgres;

/// The arguments of a program, of which it takes one after the other.
pub struct Arguments(Vec<String>);

impl Arguments {
    pub fn given() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|argument| argument != name);
        self.0.len() < before
    }

    pub fn value<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.remove(at);
        if at >= self.0.len() {
            refuse(&format!("`{name}` needs a value"));
        }
        let value = self.0.remove(at).parse();
        Some(value.unwrap_or_else(|error| refuse(&format!("`{name}`: {error}"))))
    }

    pub fn only(&mut self) -> Only {
        Only(std::iter::from_fn(|| self.value("--only")).collect())
    }

    /// The directory for the results, created before anything is measured; `target/results` by default.
    pub fn out(&mut self) -> PathBuf {
        let out: PathBuf = self
            .value("--out")
            .unwrap_or_else(|| "target/results".into());
        let created = std::fs::create_dir_all(&out);
        if let Err(error) = created {
            refuse(&format!("cannot create `{}`: {error}", out.display()));
        }
        out
    }

    /// Refuses what is left, and names what there is.
    pub fn end(self, known: &str) {
        if let Some(other) = self.0.first() {
            refuse(&format!(
                "unknown or repeated argument `{other}`; there are {known}"
            ));
        }
    }
}

/// Ends the program because of its arguments.
fn refuse(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(2);
}

/// Words of which a name must contain one; every name passes when there are none.
pub struct Only(Vec<String>);

impl Only {
    pub fn wants(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| name.contains(&**word))
    }
}

/// Values of one quantity, in the order in which they were measured.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        Self(values.into_iter().collect())
    }

    pub fn min(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::NAN)
    }

    pub fn max(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn quantile(&self, share: f64) -> f64 {
        let sorted = self.sorted();
        if sorted.is_empty() {
            return f64::NAN;
        }
        let at = share * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }

    /// Each value divided by the one of the same round.
    pub fn by(&self, other: &Self) -> Self {
        Self::of(self.0.iter().zip(&other.0).map(|(one, other)| one / other))
    }

    /// Each value minus the one of the same round.
    pub fn minus(&self, other: &Self) -> Self {
        Self::of(self.0.iter().zip(&other.0).map(|(one, other)| one - other))
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }
}

/// A number in human-readable form.
pub fn figure(value: f64) -> String {
    if value.is_nan() {
        return "–".into();
    }
    // The noise of a subtraction can leave it just below zero.
    let value = if value.abs() < 0.005 { 0.0 } else { value };
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Minimum, median and maximum in a cell of Markdown.
pub fn spread(samples: &Samples) -> String {
    format!(
        "{} … **{}** … {}",
        figure(samples.min()),
        figure(samples.median()),
        figure(samples.max())
    )
}

/// The time that something takes.
pub async fn timed(work: impl Future<Output = ()>) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

/// Measures two things in turns, changing which comes first, so that other load on the machine
/// affects both.
pub async fn in_turns(
    rounds: usize,
    mut ours: impl AsyncFnMut() -> f64,
    mut other: impl AsyncFnMut() -> f64,
) -> (Samples, Samples) {
    let [of_ours, of_other] = all_in_turns(rounds, async |which| match which {
        0 => ours().await,
        _ => other().await,
    })
    .await;
    (of_ours, of_other)
}

/// Measures the things with these numbers in turns, each round in the opposite order.
pub async fn all_in_turns<const THINGS: usize>(
    rounds: usize,
    mut measure: impl AsyncFnMut(usize) -> f64,
) -> [Samples; THINGS] {
    let mut samples = std::array::from_fn(|_| Samples::default());
    for round in 0..rounds {
        for turn in 0..THINGS {
            let is_forward = round % 2 == 0;
            let which = if is_forward { turn } else { THINGS - 1 - turn };
            samples[which].push(measure(which).await);
        }
    }
    samples
}

/// The rate per second.
pub fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// A durable server with the default settings, shared by everything that a program measures.
pub fn server() -> &'static TestPostgres {
    static SERVER: OnceLock<TestPostgres> = OnceLock::new();
    SERVER.get_or_init(|| TestPostgres::builder().setting("fsync", "on").start())
}
