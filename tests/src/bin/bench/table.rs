//! The result as a table in Markdown.

use std::fmt::Write as _;

use consumer_tests::measuring::spread;

use crate::case::{Case, Target};
use crate::plan::Plan;

pub(crate) fn write(plan: &Plan, cases: &[Case]) {
    let mut text = String::from(
        "Each cell is minimum … **median** … maximum; a ratio is taken round by round.\n\n\
         | case | ours | baseline | ratio | target |\n|---|---|---|---|---|\n",
    );
    for case in cases {
        let other = case.other.as_ref().map_or_else(
            || "–".to_owned(),
            |(name, samples)| format!("{}, {name}", spread(samples)),
        );
        let ratio = case
            .ratio()
            .map_or_else(|| "–".to_owned(), |ratio| spread(&ratio));
        let _ = writeln!(
            text,
            "| {} | {} {} | {other} | {ratio} | {} |",
            case.name,
            spread(&case.ours),
            case.unit,
            target(case.target)
        );
    }
    std::fs::write(plan.out.join("bench.md"), &text).expect("write the table");
    println!("\n{text}");
}

fn target(target: Target) -> String {
    match target {
        Target::None => "–".into(),
        Target::AtLeast(value) => format!("≥ {value}"),
        Target::AtMost(value) => format!("≤ {value}"),
    }
}
