//! Small figures, as SVG whose shapes need no style of their own.

use maud::{Markup, html};

use super::words::class;
use crate::admin::{FrontierStatus, SegmentStatus};

/// The number of slices that aggregates are divided into.
const SLICES: i32 = 1024;

/// A line of recent values.
pub(super) fn sparkline(values: &[f64]) -> Markup {
    const WIDTH: f64 = 120.0;
    const HEIGHT: f64 = 24.0;
    let highest = values.iter().copied().fold(1.0, f64::max);
    #[allow(clippy::cast_precision_loss)] // a few dozen
    let step = WIDTH / (values.len().max(2) - 1) as f64;
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(index, value)| {
            #[allow(clippy::cast_precision_loss)] // a few dozen
            let x = step * index as f64;
            let y = (HEIGHT - 2.0) * (1.0 - value / highest) + 1.0;
            format!("{x:.1},{y:.1}")
        })
        .collect();
    html! {
        svg.spark viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" aria-hidden="true" {
            @if points.len() > 1 {
                polyline points=(points.join(" ")) vector-effect="non-scaling-stroke" {}
            }
        }
    }
}

/// The segments of a consumer beside each other, as wide as their slices and filled as far as they are.
pub(super) fn slices(segments: &[SegmentStatus], head: i64) -> Markup {
    const HEIGHT: i64 = 100;
    html! {
        svg.slices viewBox={ "0 0 " (SLICES) " " (HEIGHT) } preserveAspectRatio="none" aria-hidden="true" {
            @for segment in segments {
                @let width = (segment.slices.end - segment.slices.start - gap(segments)).max(1);
                @let height = filled(segment.position, head, HEIGHT);
                rect.rest x=(segment.slices.start) y="0" width=(width) height=(HEIGHT) {}
                rect class={ "fill " (class(segment.state.tone())) } x=(segment.slices.start) y=(HEIGHT - height)
                    width=(width) height=(height) {}
            }
        }
    }
}

/// The space between two segments.
fn gap(segments: &[SegmentStatus]) -> i32 {
    match segments.len() {
        0 | 1 => 0,
        2..=16 => 4,
        _ => 2,
    }
}

/// How much of a height a position fills. What has begun is visible, and so is what is missing.
fn filled(position: i64, head: i64, height: i64) -> i64 {
    if position >= head {
        return height;
    }
    let share = i128::from(position) * i128::from(height) / i128::from(head.max(1));
    let least = i64::from(position > 0) * height / 12;
    let share = i64::try_from(share).unwrap_or(0);
    share.clamp(least, height - height / 12)
}

/// The log: what is settled, and what waits behind an open transaction.
pub(super) fn strip(frontier: &FrontierStatus) -> Markup {
    const WIDTH: i64 = 1000;
    let settled = filled(frontier.settled, frontier.head, WIDTH);
    html! {
        svg.strip viewBox={ "0 0 " (WIDTH) " 10" } preserveAspectRatio="none" aria-hidden="true" {
            rect.rest x="0" y="0" width=(WIDTH) height="10" {}
            rect.fill.ok x="0" y="0" width=(settled) height="10" {}
            @if settled < WIDTH {
                rect.fill.warn x=(settled) y="0" width=(WIDTH - settled) height="10" {}
            }
        }
    }
}

/// How much of something is done.
pub(super) fn progress(done: u64, total: u64) -> Markup {
    html! {
        progress max=(total.max(1)) value=(done.min(total)) aria-label="events handled again" {}
    }
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn what_has_begun_and_what_is_missing_are_visible() {
        assert_eq!(filled(0, 1_000_000, 100), 0);
        assert_eq!(filled(1, 1_000_000, 100), 8);
        assert_eq!(filled(500_000, 1_000_000, 100), 50);
        assert_eq!(filled(999_999, 1_000_000, 100), 92);
        assert_eq!(filled(1_000_000, 1_000_000, 100), 100);
        assert_eq!(filled(0, 0, 100), 100);
    }
}
