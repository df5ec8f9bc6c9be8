//! What the compiler says: programs that must not compile, with their messages. Those that must
//! compile are tests of their own, named in Cargo.toml.
//!
//! A compiler's own words change from one version to the next, so that messages are compared on
//! exactly the toolchain that `rust-toolchain.toml` pins. Elsewhere the programs are compiled, and
//! the test says that it compared nothing; `UI_COMPARE=no` does so anywhere.
//! `TRYBUILD=overwrite cargo test --test ui` writes the messages anew; read each before you keep it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

#[test]
fn mistakes_get_their_messages() {
    if is_pinned() {
        trybuild::TestCases::new().compile_fail("ui/fail/*.rs");
    } else {
        say(&format!(
            "{}: the messages of ui/fail are not compared, only that nothing of it compiles",
            if compiler() == pinned() {
                "UI_COMPARE=no".to_owned()
            } else {
                format!("rustc {} is not the pinned {}", compiler(), pinned())
            }
        ));
        compile_without_comparing();
    }
}

/// Runs the test below in a process of its own, since trybuild takes its orders from the
/// environment: to write what it was not given to compare with, which is thrown away.
fn compile_without_comparing() {
    let folder = without_messages();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "mistakes_do_not_compile", "--include-ignored"])
        .env("TRYBUILD", "overwrite")
        .env(PROGRAMS, &folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

/// The folder of programs that are compiled and not compared.
const PROGRAMS: &str = "UI_PROGRAMS";

#[test]
#[ignore = "a part of `mistakes_get_their_messages` on other toolchains than the pinned one"]
fn mistakes_do_not_compile() {
    let Some(folder) = env::var_os(PROGRAMS) else {
        say("there is nothing to compile by itself: run `mistakes_get_their_messages`");
        return;
    };
    trybuild::TestCases::new().compile_fail(Path::new(&folder).join("*.rs"));
}

/// Writes where nobody captures it.
fn say(text: &str) {
    io::stderr()
        .write_all(format!("{text}\n").as_bytes())
        .unwrap();
}

fn is_pinned() -> bool {
    compiler() == pinned() && env::var_os("UI_COMPARE").is_none_or(|value| value != "no")
}

#[test]
fn every_good_program_is_a_test() {
    let manifest = fs::read_to_string(own("Cargo.toml")).unwrap();
    for program in programs("ui/pass") {
        let name = program.file_stem().unwrap().to_str().unwrap();
        let entry = format!("path = \"ui/pass/{name}.rs\"");
        assert!(manifest.contains(&entry), "Cargo.toml lacks {entry}");
    }
}

#[test]
fn every_mistake_has_a_message_on_file() {
    for case in programs("ui/fail") {
        assert!(case.with_extension("stderr").exists(), "{}", case.display());
    }
}

/// The version that `rust-toolchain.toml` pins.
fn pinned() -> String {
    let text = fs::read_to_string(own("../rust-toolchain.toml")).unwrap();
    let channel = text.lines().find(|line| line.starts_with("channel"));
    channel.unwrap().split('"').nth(1).unwrap().to_owned()
}

/// The compiler that the programs meet: that of the folder where they are built.
fn compiler() -> String {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(env!("CARGO_TARGET_TMPDIR"));
    let output = rustc.arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').nth(1).unwrap().to_owned()
}

fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn programs(folder: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(own(folder)).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Copies of the programs, with no message beside them to compare with.
fn without_messages() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui-fail");
    // Those of an earlier run may be of programs that are no more.
    let _: io::Result<()> = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for program in programs("ui/fail") {
        fs::copy(&program, folder.join(program.file_name().unwrap())).unwrap();
    }
    folder
}
