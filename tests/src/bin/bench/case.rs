//! A line of the result.

use consumer_tests::measuring::{Samples, figure};

/// One line of the result.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The unit of `ours`.
    pub(crate) unit: &'static str,
    pub(crate) ours: Samples,
    /// The name and the samples that it is compared with.
    pub(crate) other: Option<(String, Samples)>,
    pub(crate) target: Target,
}

/// The target for the ratio, or for the value if nothing is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    None,
    AtLeast(f64),
    AtMost(f64),
}

impl Case {
    /// A value alone.
    pub(crate) fn of(
        name: impl Into<String>,
        unit: &'static str,
        ours: Samples,
        target: Target,
    ) -> Self {
        let case = Self {
            name: name.into(),
            unit,
            ours,
            other: None,
            target,
        };
        case.print();
        case
    }

    /// A value, and what it is compared with.
    pub(crate) fn compared(
        name: impl Into<String>,
        unit: &'static str,
        (ours, other): (Samples, Samples),
        beside: &str,
        target: Target,
    ) -> Self {
        let case = Self {
            name: name.into(),
            unit,
            ours,
            other: Some((beside.to_owned(), other)),
            target,
        };
        case.print();
        case
    }

    pub(crate) fn ratio(&self) -> Option<Samples> {
        let (_, other) = self.other.as_ref()?;
        Some(self.ours.by(other))
    }

    /// The value that the target speaks of.
    pub(crate) fn judged(&self) -> Samples {
        self.ratio().unwrap_or_else(|| self.ours.clone())
    }

    fn print(&self) {
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
    fn words(self) -> String {
        match self {
            Self::None => String::new(),
            Self::AtLeast(value) => format!(" (target: at least {value})"),
            Self::AtMost(value) => format!(" (target: at most {value})"),
        }
    }
}
