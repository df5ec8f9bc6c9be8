//! The benchmark in its short form: whether it works, not how fast anything is.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

#[test]
fn the_benchmark_runs_every_case_and_writes_its_results() {
    let directory = tempfile::tempdir().unwrap();
    // It does not exist yet.
    let out = directory.path().join("results/today");
    let ended = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("--quick")
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{errors}");

    let table = std::fs::read_to_string(out.join("bench.md")).unwrap();
    for case in [
        "Postgres, one statement per event",
        "Postgres, batches of one event, during a dump",
        "SQLite, one statement per batch",
        "Postgres, fold over 10,000 narrow rows, beside a no-op handler",
        "Postgres, fold over 100,000 wide rows, loop in a task",
        "SQLite, fold over 100 narrow rows, beside SQL, batches of 1,000",
        "Postgres, a declared fold over 10,000 narrow rows, beside one by hand",
        "SQLite, a declared fold of typed events over 10,000 narrow rows, beside one by hand",
        "Postgres, append to committed row, a fold beside one statement per event",
        "SQLite, append to committed row, a fold beside one statement per event",
        "peak memory, a fold, 1,000,000 events of as many keys, 50,000 in a batch",
        "50 no-op consumers beside one",
        "commit to handler, pairs, median",
        "8 segments beside 1",
        "4 processes beside 1, one statement per event, network 1 ms slower",
        "2 processes beside 1, one statement per batch",
        "dispatch to a handler of its event",
        "round trips per batch of 500",
        "peak memory, 20 consumers, 20,000 events of 20 kB",
        "with the dashboard open on ten screens",
        "Postgres, overview of 200 consumers, 1,000,000 events",
        "SQLite, page of 1,000 parked events",
    ] {
        assert!(table.contains(case), "no `{case}` in:\n{table}");
    }
    let plot = std::fs::read_to_string(out.join("bench.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>"));
}

#[test]
fn the_published_results_are_one_table() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/bench.md");
    let text = std::fs::read_to_string(results).unwrap();
    let (introduction, table) = text.split_once("\n\n").unwrap();
    assert!(introduction.ends_with("round by round."), "{introduction}");
    assert!(table.lines().count() > 50, "{table}");
    let is_row = |line: &str| line.starts_with("| ") && line.matches('|').count() == 6;
    let others: Vec<&str> = table.lines().filter(|line| !is_row(line)).collect();
    assert_eq!(others, ["|---|---|---|---|---|"]);
}

#[test]
fn arguments_that_the_benchmark_does_not_know_are_refused() {
    for (arguments, part) in [
        (&["--help"][..], "there are --quick, --rounds N,"),
        (&["--quikc"], "`--quikc`"),
        (&["--rounds", "many"], "`--rounds`: "),
        (&["--only"], "`--only` needs a value"),
        (&["--out", "/dev/null/results"], "cannot create"),
    ] {
        let ended = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(arguments)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{arguments:?}: {errors}");
    }
}
