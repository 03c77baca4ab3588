//! The short form of the fault suite: one fault of every kind at least, and the oracle after each round of them.
//! `make chaos FAULTS=1000` is the long form.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use penstock_system_tests::chaos::{Options, run};
use penstock_system_tests::faults::plan::PlanOptions;
use penstock_system_tests::faults::program::new_folder;
use penstock_system_tests::faults::suite::RunOptions;
use tokio_util::sync::CancellationToken;

#[test]
fn whatever_is_killed_stopped_or_cut_off_every_acknowledged_reading_is_one_row() {
    let run_options = RunOptions {
        plan: PlanOptions { seed: 2, faults: 28, round_of: 10, window_ms: 8_000, stop_ms_max: 9_000 },
        memory_bytes_max: 256_000_000,
        folder: new_folder(&std::env::temp_dir()),
    };
    let options = Options { run: run_options, devices: 100, rate: 1_000.0 };
    let outcome = run(&options, &CancellationToken::new());
    assert_eq!(outcome.findings, Vec::<String>::new(), "files are in {}", options.run.folder.display());
    assert_eq!(outcome.injected.never(), [], "every kind of fault must have had an effect");
    std::fs::remove_dir_all(&options.run.folder).unwrap();
}
