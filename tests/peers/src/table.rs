//! Renders the result as Markdown tables.

use std::fmt::Write as _;

use consumer_tests::measuring::{figure, spread};

use crate::lost::{Commits, Lost};
use crate::plan::{Plan, WRITERS};
use crate::speed::Speed;

/// The results of one crate.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) notes: &'static [&'static str],
    /// `None` for ours, which is measured beside each of the others.
    pub(crate) speed: Option<Speed>,
    pub(crate) lost: Vec<Lost>,
}

pub(crate) fn write(plan: &Plan, lines: &[Line]) {
    let text = [speeds(plan, lines), losses(plan, lines), notes(lines)].join("\n");
    std::fs::write(plan.out.join("peers.md"), &text).expect("write the table");
    println!("\n{text}");
}

fn speeds(plan: &Plan, lines: &[Line]) -> String {
    let mut text = format!(
        "Catching up on {} events of about 200 bytes, one upsert for each event into one table on Postgres. \
         Events per second, minimum … **median** … maximum of {} rounds, in turns with ours; ratios are \
         taken round by round.\n\n\
         | peer | theirs | ours beside it | ours / theirs |\n|---|---|---|---|\n",
        figure(plan.events as f64),
        plan.rounds
    );
    for line in lines {
        if let Some(speed) = &line.speed {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                line.name,
                spread(&speed.theirs),
                spread(&speed.ours),
                spread(&speed.ratio())
            );
        }
    }
    text
}

fn losses(plan: &Plan, lines: &[Line]) -> String {
    let mut text = format!(
        "{WRITERS} writers attempt {} appends each while the handlers run. Each append is its own \
         transaction with a slow commit, and one in five is rolled back. Lost: committed but never \
         handled. Repeated: handled more than once.\n",
        plan.appends
    );
    for commits in Commits::ALL {
        let _ = write!(
            text,
            "\n| {} | committed | refused or rolled back | lost | repeated |\n|---|---|---|---|---|\n",
            commits.words()
        );
        for line in lines {
            let of = |lost: &&Lost| lost.commits.words() == commits.words();
            for lost in line.lost.iter().filter(of) {
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | **{}** | {} |",
                    line.name, lost.committed, lost.rolled_back, lost.unhandled, lost.repeated
                );
            }
        }
    }
    text
}

fn notes(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let _ = writeln!(text, "- **{}.** {}", line.name, line.notes.join(" "));
    }
    text
}
