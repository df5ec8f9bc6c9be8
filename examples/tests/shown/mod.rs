//! Code that a guide shows.

/// The blocks of a language in a guide.
pub(crate) fn blocks(guide: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut lines = guide.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if line == fence {
                blocks.push(text.join("\n"));
            }
        }
    }
    blocks
}

/// Checks that each block of Rust in a guide is a part of a program.
pub(crate) fn assert_shown(guide: &str, program: &str) {
    let code = blocks(guide, "rs");
    assert!(code.len() >= 3, "only {} blocks of code", code.len());
    for block in code {
        assert!(
            format!("\n{program}").contains(&format!("\n{block}\n")),
            "the program does not contain\n{block}"
        );
    }
}
