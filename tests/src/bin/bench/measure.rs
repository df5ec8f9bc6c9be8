//! Samples of one quantity, and two of them taken in turns, and the server that they are taken on.

use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use consumer_tests::TestPostgres;

/// What was measured, in the order in which it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        Self(values.into_iter().collect())
    }

    pub(crate) fn min(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let sorted = self.sorted();
        if sorted.is_empty() {
            return f64::NAN;
        }
        let at = share * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }

    /// Each value by the one of the same round.
    pub(crate) fn by(&self, other: &Self) -> Self {
        Self::of(self.0.iter().zip(&other.0).map(|(one, other)| one / other))
    }

    /// Each value less the one of the same round.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self::of(self.0.iter().zip(&other.0).map(|(one, other)| one - other))
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }
}

/// One line of the result.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What `ours` counts.
    pub(crate) unit: &'static str,
    pub(crate) ours: Samples,
    /// What it is compared with, and its name.
    pub(crate) other: Option<(String, Samples)>,
    pub(crate) target: Target,
}

/// What the ratio, or the value where nothing is compared, should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    None,
    AtLeast(f64),
    AtMost(f64),
}

impl Case {
    pub(crate) fn ratio(&self) -> Option<Samples> {
        let (_, other) = self.other.as_ref()?;
        Some(self.ours.by(other))
    }

    /// The value that the target speaks of.
    pub(crate) fn judged(&self) -> Samples {
        self.ratio().unwrap_or_else(|| self.ours.clone())
    }

    pub(crate) fn print(&self) {
        let (ours, judged) = (&self.ours, self.judged());
        let mut line = format!(
            "{:<44} {:>10} … {} … {} {}",
            self.name,
            figure(ours.min()),
            figure(ours.median()),
            figure(ours.max()),
            self.unit
        );
        if let Some((name, other)) = &self.other {
            line += &format!(
                "; {name} {} … {} … {}; ratio {} … {} … {}",
                figure(other.min()),
                figure(other.median()),
                figure(other.max()),
                figure(judged.min()),
                figure(judged.median()),
                figure(judged.max()),
            );
        }
        println!("{line}{}", self.target.words());
    }
}

impl Target {
    pub(crate) fn words(self) -> String {
        match self {
            Self::None => String::new(),
            Self::AtLeast(value) => format!(" (wanted: at least {value})"),
            Self::AtMost(value) => format!(" (wanted: at most {value})"),
        }
    }
}

/// A number as a person reads it.
pub(crate) fn figure(value: f64) -> String {
    if value.is_nan() {
        return "–".into();
    }
    // Less than nothing only by the noise of what was subtracted.
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
pub(crate) fn spread(samples: &Samples) -> String {
    format!(
        "{} … **{}** … {}",
        figure(samples.min()),
        figure(samples.median()),
        figure(samples.max())
    )
}

/// How long something takes.
pub(crate) async fn timed(work: impl Future<Output = ()>) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

/// Measures two things in turns, the first one first in every other round, so that what else the
/// machine does weighs on both alike.
pub(crate) async fn in_turns(
    rounds: usize,
    mut ours: impl AsyncFnMut() -> f64,
    mut other: impl AsyncFnMut() -> f64,
) -> (Samples, Samples) {
    let (mut of_ours, mut of_other) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        if round % 2 == 0 {
            of_ours.push(ours().await);
            of_other.push(other().await);
        } else {
            of_other.push(other().await);
            of_ours.push(ours().await);
        }
    }
    (of_ours, of_other)
}

/// How many a second.
pub(crate) fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// A server that keeps what it commits, with the settings that it comes with: one for all, a
/// database each.
pub(crate) fn server() -> &'static TestPostgres {
    static SERVER: OnceLock<TestPostgres> = OnceLock::new();
    SERVER.get_or_init(|| TestPostgres::builder().setting("fsync", "on").start())
}
