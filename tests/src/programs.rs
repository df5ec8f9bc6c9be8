//! Programs of `fixtures/` that are packages of their own, built with this library or an earlier one.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the manifest of such a program has instead of the library's directory.
const LIBRARY: &str = "LIBRARY";

/// The environment variable that leaves out the tests which need the history of this repository.
const WITHOUT_HISTORY: &str = "TEST_WITHOUT_HISTORY";

/// A `cargo` for crates outside the workspace, without debug information. All of them are built into one
/// directory, below the `CARGO_TARGET_TMPDIR` of the test, so that they share their dependencies.
#[must_use]
pub fn cargo_outside(temporary: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .env("CARGO_TARGET_DIR", target_outside(temporary))
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env_remove("RUSTFLAGS");
    cargo
}

/// Where [`cargo_outside`] puts what it builds.
#[must_use]
pub fn target_outside(temporary: &str) -> PathBuf {
    Path::new(temporary).join("outside")
}

/// A program of `fixtures/`.
#[derive(Clone, Copy)]
pub struct Program {
    fixture: &'static str,
    features: &'static str,
    commit: Option<&'static str>,
}

impl Program {
    /// The program of that directory, with the library as it is now.
    #[must_use]
    pub const fn of(fixture: &'static str) -> Self {
        Self {
            fixture,
            features: "",
            commit: None,
        }
    }

    /// The same with features.
    #[must_use]
    pub const fn features(mut self, features: &'static str) -> Self {
        self.features = features;
        self
    }

    /// The same with the library as it was at a commit.
    #[must_use]
    pub const fn with_library_of(mut self, commit: &'static str) -> Self {
        self.commit = Some(commit);
        self
    }

    /// Builds it by [`cargo_outside`], and returns its file. If the history of this repository is not here,
    /// as in a shallow clone or an archive, that is a failure, or `None` with a message where
    /// `TEST_WITHOUT_HISTORY` is set.
    #[must_use]
    pub fn build(&self, temporary: &str) -> Option<String> {
        let directory = &Path::new(temporary).join("programs");
        fs::create_dir_all(directory).expect("make the directory");
        let lock = File::create(directory.join("lock")).expect("make the lock");
        // Another test may build a program with the same library.
        lock.lock().expect("lock the directory");
        let library = match self.commit {
            Some(commit) => check_out(commit, directory)?,
            None => root().to_owned(),
        };
        let package = self.copy(&library, directory);
        run(cargo_outside(temporary)
            .args(["build", "--quiet", "--features", self.features])
            .current_dir(package));
        // The next build of the package replaces it there.
        let built = directory.join(self.name());
        let copy = built.with_extension("new");
        let program = target_outside(temporary).join("debug").join(self.fixture);
        fs::copy(program, &copy).expect("copy the program");
        fs::rename(copy, &built).expect("rename the program");
        Some(built.to_str().expect("a name in UTF-8").to_owned())
    }

    /// Puts the package beside the library that it is built with.
    fn copy(&self, library: &Path, directory: &Path) -> PathBuf {
        let fixture = root().join("tests/fixtures").join(self.fixture);
        let package = directory.join(format!("{}_{}", self.fixture, self.library()));
        fs::create_dir_all(package.join("src")).expect("make the package");
        let manifest = fs::read_to_string(fixture.join("Cargo.toml")).expect("read the manifest");
        let library_path = library.to_str().expect("a name in UTF-8");
        let manifest = manifest.replace(LIBRARY, library_path);
        write_changed(&package.join("Cargo.toml"), &manifest);
        let source = fs::read_to_string(fixture.join("src/main.rs")).expect("read the source");
        write_changed(&package.join("src/main.rs"), &source);
        // The versions of that library, as far as the program needs them.
        fs::copy(library.join("Cargo.lock"), package.join("Cargo.lock")).expect("copy the lock");
        package
    }

    fn library(&self) -> &str {
        self.commit.map_or("now", |commit| &commit[..7])
    }

    fn name(&self) -> String {
        let parts = [self.fixture, self.features, self.library()];
        parts.map(str::to_owned).join("_")
    }
}

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the root of the repository")
}

/// The repository as it was at a commit.
fn check_out(commit: &str, directory: &Path) -> Option<PathBuf> {
    if !has_history(commit) {
        let missing = missing(commit, env::var_os(WITHOUT_HISTORY).is_some());
        eprintln!("not tested: {missing}");
        return None;
    }
    let library = directory.join(format!("library_{}", &commit[..7]));
    fs::create_dir_all(&library).expect("make the library's directory");
    let archive = library.with_extension("tar");
    run(Command::new("git")
        .args(["archive", "--output"])
        .arg(&archive)
        .arg(commit)
        .current_dir(root()));
    run(Command::new("tar")
        .arg("-xf")
        .arg(&archive)
        .arg("-C")
        .arg(&library));
    Some(library)
}

/// What to do about a commit that is not here; a failure unless its tests are left out.
fn missing(commit: &str, is_left_out: bool) -> String {
    let missing = format!(
        "commit {commit} is missing; run `git fetch --unshallow`, or set `{WITHOUT_HISTORY}=1` to leave this test out"
    );
    assert!(is_left_out, "{missing}");
    missing
}

fn has_history(commit: &str) -> bool {
    let found = Command::new("git")
        .args(["cat-file", "-e", &format!("{commit}^{{commit}}")])
        .current_dir(root())
        .output();
    found.is_ok_and(|output| output.status.success())
}

/// Leaves a file as it is if that is its text, so that nothing is built again.
fn write_changed(file: &Path, text: &str) {
    if fs::read_to_string(file).ok().as_deref() != Some(text) {
        fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

/// Runs a command that has to succeed.
fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    output
}

#[cfg(test)]
mod tests {
    use super::{has_history, missing};

    #[test]
    #[should_panic(expected = "run `git fetch --unshallow`")]
    fn a_commit_that_is_missing_is_a_failure() {
        missing("abc", false);
    }

    #[test]
    fn a_commit_that_is_missing_is_named_where_it_is_left_out() {
        assert!(missing("abc", true).starts_with("commit abc is missing"));
    }

    #[test]
    fn a_commit_that_no_one_made_is_missing() {
        assert!(!has_history("0123456789012345678901234567890123456789"));
    }
}
