//! The short form of the fault suite: one fault of every kind at least, and the oracle after each round of them.
//! `make chaos FAULTS=1000` is the long form.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use penstock_system_tests::chaos::plan::PlanOptions;
use penstock_system_tests::chaos::{Options, new_folder, run};
use tokio_util::sync::CancellationToken;

#[test]
fn whatever_is_killed_stopped_or_cut_off_every_acknowledged_reading_is_one_row() {
    let options = Options {
        plan: PlanOptions { seed: 2, faults: 28, round_of: 10, window_ms: 8_000, stop_ms_max: 9_000 },
        devices: 100,
        rate: 1_000.0,
        memory_bytes_max: 256_000_000,
        folder: new_folder(&std::env::temp_dir()),
    };
    let outcome = run(&options, &CancellationToken::new());
    assert_eq!(outcome.findings, Vec::<String>::new(), "files are in {}", options.folder.display());
    assert_eq!(outcome.injected.never(), [], "every kind of fault must have had an effect");
    std::fs::remove_dir_all(&options.folder).unwrap();
}
