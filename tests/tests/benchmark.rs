//! The benchmark in its short form: whether it works, not how fast anything is.
#![cfg(target_os = "linux")]

use std::process::Command;

#[test]
fn the_benchmark_runs_every_case_and_writes_its_results() {
    let out = tempfile::tempdir().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("--quick")
        .arg("--out")
        .arg(out.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{errors}");

    let table = std::fs::read_to_string(out.path().join("bench.md")).unwrap();
    for case in [
        "Postgres, a statement an event",
        "Postgres, batches of one event, during a dump",
        "SQLite, a statement a batch",
        "Postgres, fold beside a no-op handler",
        "SQLite, fold beside a statement a batch of 1,000",
        "50 no-op consumers beside one",
        "commit to handler, pairs, median",
        "8 segments beside 1",
        "dispatch to a handler of its event",
        "statements a batch of 500",
        "peak memory, 20 consumers, 20,000 events of 20 kB",
        "with the dashboard open on ten screens",
        "overview of 200 consumers, 1,000,000 events",
    ] {
        assert!(table.contains(case), "no `{case}` in:\n{table}");
    }
    let plot = std::fs::read_to_string(out.path().join("bench.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>"));
}
