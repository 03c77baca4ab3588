//! `chaos`: the fault suite as a program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use penstock_system_tests::chaos::plan::{PlanOptions, plan};
use penstock_system_tests::chaos::program::{cancel_on_signal, drawn_seed, shown};
use penstock_system_tests::chaos::{Options, new_folder, run};
use tokio_util::sync::CancellationToken;

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
    /// How many faults
    #[arg(long, default_value_t = 100)]
    faults: usize,
    /// Which faults follows from it; drawn if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Faults a round
    #[arg(long, default_value_t = 12)]
    rounds_of: usize,
    /// Faults of a round begin within this time, in seconds
    #[arg(long, default_value_t = 12)]
    window_s: u64,
    /// The longest SIGSTOP, in seconds
    #[arg(long, default_value_t = 60)]
    stop_s_max: u64,
    /// Devices
    #[arg(long, default_value_t = 100)]
    devices: usize,
    /// Readings a second, of all devices together
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Resident memory that no gateway and no writer may exceed, in MB
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
        rate: cli.rate,
        memory_bytes_max: cli.memory_mb_max * 1_000_000,
        folder: new_folder(&cli.dir),
    };
    let cancel = CancellationToken::new();
    if let Err(error) = cancel_on_signal(cancel.clone()) {
        eprintln!("chaos: cannot listen for Ctrl-C: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = run(&options, &cancel);
    if outcome.findings.is_empty() {
        // What cannot be removed is in nobody's way.
        let _ = std::fs::remove_dir_all(&options.folder);
    }
    if !outcome.interrupted {
        print!("{}", shown(&outcome.injected.never()));
    }
    let verdict = match (outcome.is_ok(), outcome.interrupted) {
        (true, _) => "ok",
        (false, true) => "interrupted",
        (false, false) => "FAILED",
    };
    println!(
        "{verdict}: {} rounds, {} readings acknowledged, {} findings (seed {})",
        outcome.rounds,
        outcome.acked,
        outcome.findings.len(),
        options.plan.seed
    );
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
