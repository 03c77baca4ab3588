//! `alert-chaos`: the fault suite for alerts as a program.

use std::process::ExitCode;

use clap::Parser;
use penstock_system_tests::alert_chaos::{Options, run};
use penstock_system_tests::faults::program::Common;

const EXAMPLES: &str = "Examples:
  alert-chaos                              100 faults from a seed that is drawn and printed
  alert-chaos --faults 300 --seed 7        the long form; the same seed gives the same faults
  alert-chaos --faults 300 --seed 7 --plan    only shows which faults those are

Exit codes: 0 nothing was found, every kind was injected and every rule has fired, 1 otherwise, 2 usage.";

/// Injects faults into a group of alerters and their Kafka under load, and checks after each round of them that exactly
/// those alerts exist which the readings must have raised: 0 missed, 0 doubled, 0 false.
///
/// Silent devices belong to it: an alerter that goes by the clock waits longer than any reading can be on its way here
/// (12 s with the producer, 8 s in a Kafka that is stopped, and some more), so that silence is never false.
#[derive(Parser)]
#[command(name = "alert-chaos", after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// The longest SIGSTOP of an alerter, in seconds
    #[arg(long, default_value_t = 20)]
    stop_s_max: u64,
    /// Devices; each has four readings a second when it is not silent
    #[arg(long, default_value_t = 120)]
    devices: u32,
}

fn main() -> ExitCode {
    let Cli { common, stop_s_max, devices } = Cli::parse();
    common.conduct(stop_s_max, |options, cancel| run(&Options { run: options, devices }, cancel))
}
