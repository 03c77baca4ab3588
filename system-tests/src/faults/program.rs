//! What the programs of the suites have in common.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::plan::{Kind, PlanOptions, plan};
use super::suite::{Outcome, RunOptions};

/// The options that every suite has.
#[derive(Args, Debug)]
pub struct Common {
    /// How many faults
    #[arg(long, default_value_t = 100)]
    faults: usize,
    /// Which faults, and which load, follows from it; drawn if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Faults a round
    #[arg(long, default_value_t = 12)]
    rounds_of: usize,
    /// Faults of a round begin within this time, in seconds
    #[arg(long, default_value_t = 12)]
    window_s: u64,
    /// Resident memory that no Penstock process may exceed, in MB
    #[arg(long, default_value_t = 256)]
    memory_mb_max: u64,
    /// Folder in which a folder for data, configuration and logs is made; it is removed if nothing is found
    #[arg(long, default_value = ".penstock/chaos")]
    dir: PathBuf,
    /// Show the faults and do nothing
    #[arg(long)]
    plan: bool,
}

impl Common {
    /// Does what the command line asks for: shows the plan, or runs a suite, with no SIGSTOP longer than `stop_s_max`.
    pub fn conduct<K: Kind>(
        &self,
        stop_s_max: u64,
        run: impl FnOnce(RunOptions, &CancellationToken) -> Outcome<K>,
    ) -> ExitCode {
        let plan_options = PlanOptions {
            seed: self.seed.unwrap_or_else(drawn_seed),
            faults: self.faults,
            round_of: self.rounds_of,
            window_ms: self.window_s * 1_000,
            stop_ms_max: stop_s_max * 1_000,
        };
        let seed = plan_options.seed;
        if self.plan {
            println!("seed {seed}");
            for round in plan::<K>(&plan_options) {
                println!("round {}", round.number);
                round.faults.iter().for_each(|fault| println!("  {fault}"));
            }
            return ExitCode::SUCCESS;
        }
        let cancel = CancellationToken::new();
        if let Err(error) = cancel_on_signal(cancel.clone()) {
            eprintln!("cannot listen for Ctrl-C: {error}");
            return ExitCode::FAILURE;
        }
        let folder = new_folder(&self.dir);
        let memory_bytes_max = self.memory_mb_max * 1_000_000;
        let outcome =
            run(RunOptions { plan: plan_options, memory_bytes_max, folder: folder.clone() }, &cancel);
        if outcome.findings.is_empty() {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(&folder);
        }
        println!("\n{}", outcome.injected);
        println!("{}", conclusion(&outcome, seed));
        if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// What was not put to the test, and the verdict.
fn conclusion<K: Kind>(outcome: &Outcome<K>, seed: u64) -> String {
    let never: Vec<String> = outcome.injected.never().iter().map(ToString::to_string).collect();
    let mut text = String::new();
    for (what, which) in [("never injected", &never), ("never put to the test", &outcome.untested)] {
        if !which.is_empty() && !outcome.interrupted {
            text += &format!("{what}: {}\n", which.join(", "));
        }
    }
    let verdict = match (outcome.is_ok(), outcome.interrupted) {
        (true, _) => "ok",
        (false, true) => "interrupted",
        (false, false) => "FAILED",
    };
    let Outcome { rounds, load, findings, .. } = outcome;
    text + &format!("{verdict}: {rounds} rounds, {load}, {} findings (seed {seed})", findings.len())
}

/// A seed for whoever gives none.
fn drawn_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) % 100_000
}

/// A new folder for a run in `parent`.
///
/// # Panics
/// Where it cannot be made.
pub fn new_folder(parent: &Path) -> PathBuf {
    std::fs::create_dir_all(parent).unwrap();
    let folder = tempfile::Builder::new().prefix("chaos-").tempdir_in(parent).unwrap();
    folder.keep()
}

/// The first Ctrl-C or SIGTERM ends the run in order: faults are undone, every process ends. The second one ends it at
/// once; children are then killed by the kernel.
fn cancel_on_signal(cancel: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("chaos-signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if cancel.is_cancelled() {
                    std::process::abort();
                }
                eprintln!("ending: faults are undone first");
                cancel.cancel();
            }
        });
    })?;
    Ok(())
}
