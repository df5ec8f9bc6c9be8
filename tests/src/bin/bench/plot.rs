//! The ratios as a picture: a bar to the median, a whisker from the minimum to the maximum.

use std::fmt::Write as _;

use consumer_tests::measuring::figure;

use crate::case::Case;
use crate::plan::Plan;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 390.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 54.0;
const ROW: f64 = 30.0;

pub(crate) fn write(plan: &Plan, cases: &[Case]) {
    let rates: Vec<&Case> = cases
        .iter()
        .filter(|case| {
            case.other
                .as_ref()
                .is_some_and(|(beside, _)| beside == "by hand")
        })
        .collect();
    if rates.is_empty() {
        return;
    }
    std::fs::write(plan.out.join("bench.svg"), draw(&rates)).expect("write the plot");
}

fn draw(cases: &[&Case]) -> String {
    let longest = cases
        .iter()
        .filter_map(|case| case.ratio())
        .map(|ratio| ratio.max())
        .fold(1.2, f64::max);
    // Logarithmic, so that twice as fast and half as fast are as far from 1.
    let least = cases
        .iter()
        .filter_map(|case| case.ratio())
        .map(|ratio| ratio.min())
        .fold(0.5, f64::min);
    let scale = Scale {
        least: least.ln(),
        most: longest.ln(),
    };
    let height = TOP + ROW * cases.len() as f64 + 24.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"600\">Events per second, as a multiple of the loop written by hand</text>\n"
    );
    for (row, case) in cases.iter().enumerate() {
        bar(&mut svg, &scale, case, TOP + ROW * row as f64);
    }
    let same = scale.x(1.0);
    let bottom = height - 20.0;
    let _ = writeln!(
        svg,
        "<line x1=\"{same:.1}\" x2=\"{same:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" stroke=\"#222\" stroke-dasharray=\"4 3\"/>\n\
         <text x=\"{same:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#222\">by hand</text>\n</svg>",
        TOP - 6.0,
        TOP - 10.0
    );
    svg
}

fn bar(svg: &mut String, scale: &Scale, case: &Case, top: f64) {
    let Some(ratio) = case.ratio() else { return };
    let (start, median) = (scale.x(scale.least.exp()), scale.x(ratio.median()));
    let (low, high) = (scale.x(ratio.min()), scale.x(ratio.max()));
    let middle = top + ROW / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"16\" y=\"{:.1}\">{}</text>\n\
         <rect x=\"{start:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#4c78a8\"/>\n\
         <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"#f58518\" stroke-width=\"2\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\">× {} ({}/s)</text>",
        middle + 4.0,
        escaped(&case.name),
        top + 5.0,
        (median - start).max(1.0),
        ROW - 10.0,
        high.max(median) + 8.0,
        middle + 4.0,
        figure(ratio.median()),
        figure(case.ours.median()),
    );
}

/// Maps ratios to the width of the plot.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn x(&self, ratio: f64) -> f64 {
        let share = (ratio.ln() - self.least) / (self.most - self.least);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
