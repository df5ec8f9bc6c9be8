//! The guide to the code names files that exist.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;

#[test]
fn every_file_that_the_architecture_guide_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let library = root.join("consumer/src");
    let guide = std::fs::read_to_string(library.join("guide/architecture.md")).unwrap();
    let prose = guide.split("```").step_by(2);
    let paths: Vec<&str> = prose
        .flat_map(|text| text.split('`').skip(1).step_by(2))
        .filter(|code| code.contains('/') || Path::new(code).extension() == Some("rs".as_ref()))
        .collect();
    assert!(paths.len() >= 20, "only {} paths", paths.len());
    let missing: Vec<&str> = paths
        .into_iter()
        .filter(|path| !library.join(path).exists() && !root.join(path).exists())
        .collect();
    assert!(missing.is_empty(), "the guide names {missing:?}");
}
