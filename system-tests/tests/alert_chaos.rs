//! The short form of the fault suite for alerts: one fault of every kind at least, and the oracle after each round of them.
//! `make chaos-alerts FAULTS=300` is the long form.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use penstock_system_tests::alert_chaos::{Options, run};
use penstock_system_tests::faults::plan::PlanOptions;
use penstock_system_tests::faults::program::new_folder;
use penstock_system_tests::faults::suite::RunOptions;
use tokio_util::sync::CancellationToken;

#[test]
fn g4_whatever_is_killed_stopped_or_cut_off_each_alert_is_there_once() {
    let run_options = RunOptions {
        plan: PlanOptions { seed: 1, faults: 14, round_of: 7, window_ms: 6_000, stop_ms_max: 9_000 },
        memory_bytes_max: 256_000_000,
        folder: new_folder(&std::env::temp_dir()),
    };
    let options = Options { run: run_options, devices: 100 };
    let outcome = run(&options, &CancellationToken::new());
    assert_eq!(outcome.findings, Vec::<String>::new(), "files are in {}", options.run.folder.display());
    assert_eq!(outcome.injected.never(), [], "every kind of fault must have had an effect");
    assert_eq!(outcome.untested, Vec::<String>::new(), "every rule must have fired and been resolved");
    std::fs::remove_dir_all(&options.run.folder).unwrap();
}
