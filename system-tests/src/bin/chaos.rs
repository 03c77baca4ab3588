//! `chaos`: the fault suite for rows as a program.

use std::process::ExitCode;

use clap::Parser;
use penstock_system_tests::chaos::{Options, run};
use penstock_system_tests::faults::program::Common;

const EXAMPLES: &str = "Examples:
  chaos                              100 faults from a seed that is drawn and printed
  chaos --faults 1000 --seed 7       the long form; the same seed gives the same faults
  chaos --faults 1000 --seed 7 --plan   only shows which faults those are

Exit codes: 0 nothing was found and every kind was injected, 1 otherwise, 2 usage.";

/// Injects faults into a whole chain of real servers under load, and checks after each round of them that every
/// acknowledged reading is one row.
#[derive(Parser)]
#[command(name = "chaos", after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// The longest SIGSTOP, in seconds
    #[arg(long, default_value_t = 60)]
    stop_s_max: u64,
    /// Devices
    #[arg(long, default_value_t = 100)]
    devices: usize,
    /// Readings a second, of all devices together
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
}

fn main() -> ExitCode {
    let Cli { common, stop_s_max, devices, rate } = Cli::parse();
    common.conduct(stop_s_max, |options, cancel| run(&Options { run: options, devices, rate }, cancel))
}
