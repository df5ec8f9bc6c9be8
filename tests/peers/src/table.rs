//! The result as tables in Markdown.

use std::fmt::Write as _;

use consumer_tests::measuring::{figure, spread};

use crate::lost::{Commits, Lost};
use crate::plan::{Plan, WRITERS};
use crate::speed::Speed;

/// What is known of one of them.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) notes: &'static [&'static str],
    /// Nothing for ours, which stands beside each of the others.
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
        "Catching up {} events of about 200 bytes into one table, one upsert an event, on Postgres: \
         events a second, minimum … **median** … maximum of {} rounds in turns with ours; the ratio is \
         taken round by round.\n\n\
         | peer | theirs | ours beside it | ours by theirs |\n|---|---|---|---|\n",
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
        "{WRITERS} writers try {} appends each, every one in a transaction of its own that takes its \
         time at its commit, and every fifth of which is rolled back; handlers run meanwhile. Lost are \
         events that were committed and never handled, repeated those handled once too often.\n",
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
