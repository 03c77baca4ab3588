//! `alert-chaos`: the fault suite for alerts as a program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use penstock_system_tests::alert_chaos::plan::{PlanOptions, plan};
use penstock_system_tests::alert_chaos::{Options, run};
use penstock_system_tests::chaos::new_folder;
use penstock_system_tests::chaos::program::{cancel_on_signal, drawn_seed, shown};
use tokio_util::sync::CancellationToken;

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
    /// How many faults
    #[arg(long, default_value_t = 100)]
    faults: usize,
    /// Which faults and which readings follows from it; drawn if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Faults a round
    #[arg(long, default_value_t = 10)]
    rounds_of: usize,
    /// Faults of a round begin within this time, in seconds
    #[arg(long, default_value_t = 12)]
    window_s: u64,
    /// The longest SIGSTOP of an alerter, in seconds
    #[arg(long, default_value_t = 20)]
    stop_s_max: u64,
    /// Devices; each has four readings a second when it is not silent
    #[arg(long, default_value_t = 120)]
    devices: u32,
    /// Resident memory that no alerter may exceed, in MB
    #[arg(long, default_value_t = 256)]
    memory_mb_max: u64,
    /// Folder in which a folder for data, configuration and logs is made; it is removed if nothing is found
    #[arg(long, default_value = ".penstock/chaos")]
    dir: PathBuf,
    /// Show the faults and do nothing
    #[arg(long)]
    plan: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let plan_options = PlanOptions {
        seed: cli.seed.unwrap_or_else(drawn_seed),
        faults: cli.faults,
        round_of: cli.rounds_of,
        window_ms: cli.window_s * 1_000,
        stop_ms_max: cli.stop_s_max * 1_000,
    };
    if cli.plan {
        println!("seed {}", plan_options.seed);
        for round in plan(&plan_options) {
            println!("round {}", round.number);
            round.faults.iter().for_each(|fault| println!("  {fault}"));
        }
        return ExitCode::SUCCESS;
    }
    let options = Options {
        plan: plan_options,
        devices: cli.devices,
        memory_bytes_max: cli.memory_mb_max * 1_000_000,
        folder: new_folder(&cli.dir),
    };
    let cancel = CancellationToken::new();
    if let Err(error) = cancel_on_signal(cancel.clone()) {
        eprintln!("alert-chaos: cannot listen for Ctrl-C: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = run(&options, &cancel);
    if outcome.findings.is_empty() {
        // What cannot be removed is in nobody's way.
        let _ = std::fs::remove_dir_all(&options.folder);
    }
    if !outcome.interrupted {
        print!("{}", shown(&outcome.injected.never()));
        if !outcome.untested.is_empty() {
            println!("rules that never fired or were never resolved: {}", outcome.untested.join(", "));
        }
    }
    let verdict = match (outcome.is_ok(), outcome.interrupted) {
        (true, _) => "ok",
        (false, true) => "interrupted",
        (false, false) => "FAILED",
    };
    println!(
        "{verdict}: {} rounds, {} readings, {} alerts, {} findings (seed {})",
        outcome.rounds,
        outcome.readings,
        outcome.alerts,
        outcome.findings.len(),
        options.plan.seed
    );
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
