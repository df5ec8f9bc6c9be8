//! A newcomer's first steps: the README's first example and its dependencies, in a new crate outside
//! the workspace.

use std::path::Path;
use std::process::Command;

/// The first block of that language in the README.
fn block(readme: &str, language: &str) -> String {
    let fence = format!("```{language}\n");
    let start = readme.find(&fence).expect("the README has such a block") + fence.len();
    let length = readme[start..].find("\n```").expect("the block ends");
    readme[start..start + length].to_owned()
}

#[test]
fn the_first_example_of_the_readme_runs_in_a_new_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let project = tempfile::tempdir().unwrap();
    let library = root.join("consumer");
    let by_path = format!("consumer = {{ path = {:?} }}", library.to_str().unwrap());
    let dependencies = block(&readme, "toml").replace("consumer = \"0.1\"", &by_path);
    assert!(
        dependencies.contains(&by_path),
        "the README names the dependency on this library"
    );
    let manifest = format!(
        "[package]\nname = \"newcomer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n{dependencies}\n"
    );
    std::fs::write(project.path().join("Cargo.toml"), manifest).unwrap();
    std::fs::create_dir(project.path().join("src")).unwrap();
    std::fs::write(
        project.path().join("src/main.rs"),
        block(&readme, "rust,no_run"),
    )
    .unwrap();
    // The versions that the workspace is tested with.
    std::fs::copy(root.join("Cargo.lock"), project.path().join("Cargo.lock")).unwrap();

    let run = || {
        let output = Command::new(env!("CARGO"))
            .args(["run", "--quiet"])
            .current_dir(project.path())
            .env(
                "CARGO_TARGET_DIR",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("newcomer"),
            )
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        assert!(!errors.contains("warning"), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    for position in [1, 2] {
        let (printed, wanted) = (
            run(),
            format!("user_read_model: caught up at {position}, 1 event"),
        );
        assert!(printed.starts_with(&wanted), "{printed}");
        assert_eq!(printed.lines().count(), 1, "{printed}");
    }
}
