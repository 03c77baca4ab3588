//! The fault suite: load with a ledger, a seeded sequence of faults in every part of the chain and in the networks between
//! them, and after each round of them an oracle that holds what was acknowledged against what is stored.
//!
//! [`run`] is the whole of it, for the program `chaos` and for the test of the same name.

pub mod hands;
pub mod inject;
pub mod kind;
pub mod load;
pub mod networks;
pub mod node;
pub mod oracle;
pub mod plan;
pub mod program;
pub mod proxy;
pub mod site;
pub mod tally;
pub mod timeline;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use self::inject::inject;
use self::kind::Kind;
use self::load::Load;
use self::oracle::{Oracle, Verdict};
use self::plan::{PlanOptions, Round, plan};
use self::site::Site;
use self::tally::{Injecting, Tally};
use self::timeline::{in_mb, over_budget};
use crate::wait::until;

const FIRST_ACK: Duration = Duration::from_secs(60);
const LOG_LINES: usize = 20;

/// What a run does.
#[derive(Clone, Debug)]
pub struct Options {
    /// The faults.
    pub plan: PlanOptions,
    /// Devices of the fleet.
    pub devices: usize,
    /// Readings they publish a second, together.
    pub rate: f64,
    /// Resident memory that no gateway and no writer may exceed, in bytes.
    pub memory_bytes_max: u64,
    /// Where data, configuration and logs go; must not be there yet. Kept if the run fails.
    pub folder: PathBuf,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// By kind.
    pub injected: Tally<Kind>,
    /// Readings acknowledged.
    pub acked: u64,
    /// Rounds that were checked.
    pub rounds: usize,
    /// What must not be, a line each. Nothing: all guarantees hold.
    pub findings: Vec<String>,
    /// Whether it was cut short from outside.
    pub interrupted: bool,
}

impl Outcome {
    /// Whether everything was tried and nothing was found.
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty() && self.injected.never().is_empty() && !self.interrupted
    }
}

/// Runs everything: prints what it does, stops after the first round in which something was found, or when cancelled.
///
/// # Panics
/// Where there can be no runtime.
pub fn run(options: &Options, cancel: &CancellationToken) -> Outcome {
    let runtime = Runtime::new().unwrap();
    let rounds = plan(&options.plan);
    let PlanOptions { seed, faults, .. } = options.plan;
    println!(
        "seed {seed}: {faults} faults in {} rounds; {} devices, {} readings/s; files in {}",
        rounds.len(),
        options.devices,
        options.rate,
        options.folder.display()
    );
    let mut outcome = Outcome {
        injected: Tally::new(Kind::all()),
        acked: 0,
        rounds: 0,
        findings: Vec::new(),
        interrupted: false,
    };
    let site = match catch_unwind(AssertUnwindSafe(|| Site::start(&runtime, &options.folder))) {
        Ok(site) => site,
        Err(panic) => {
            outcome.findings.push(format!("the chain could not be started: {}", words(&*panic)));
            return outcome;
        }
    };
    let mut suite = Suite { runtime: &runtime, site: &site, options, cancel, oracle: Oracle::default() };
    for round in &rounds {
        // What panics is a deadline that was missed, in a fault or in a check: it fails the round like a finding.
        let ended = catch_unwind(AssertUnwindSafe(|| suite.round(round, rounds.len(), &mut outcome)));
        if let Err(panic) = ended {
            outcome.findings.push(format!("the round could not be ended: {}", words(&*panic)));
        }
        outcome.interrupted = cancel.is_cancelled();
        if !outcome.findings.is_empty() {
            explain(&suite, round, &outcome);
        }
        if !outcome.findings.is_empty() || outcome.interrupted {
            break;
        }
    }
    println!("\n{}", outcome.injected);
    outcome
}

pub(crate) fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}

fn explain(suite: &Suite<'_>, round: &Round, outcome: &Outcome) {
    let folder = suite.options.folder.display();
    println!("\n{}", suite.site.log_tails(LOG_LINES));
    println!("FAILED: seed {}, round {}; files are in {folder}", suite.options.plan.seed, round.number);
    println!("its faults:");
    round.faults.iter().for_each(|fault| println!("  {fault}"));
    println!("what was found:");
    outcome.findings.iter().for_each(|finding| println!("  {finding}"));
}

struct Suite<'s> {
    runtime: &'s Runtime,
    site: &'s Site,
    options: &'s Options,
    cancel: &'s CancellationToken,
    oracle: Oracle,
}

impl Suite<'_> {
    fn round(&mut self, round: &Round, of: usize, outcome: &mut Outcome) {
        println!("\nround {} of {of}:", round.number);
        round.faults.iter().for_each(|fault| println!("  {fault}"));
        // In every other round each insert can be seen; in the others merges go on, as they do in service.
        let hold = round.number % 2 == 1;
        if hold {
            self.site.hold_merges(true);
        }
        let site = self.site;
        let (peaks, checked) =
            timeline::watch_memory(site.nodes(), || self.round_under_watch(round, outcome));
        let Some(checked) = checked else { return };
        println!("round {}: {checked}; memory in MB: {}", round.number, in_mb(&peaks));
        outcome.findings.extend(over_budget(&peaks, self.options.memory_bytes_max));
        outcome.findings.append(&mut site.unexpected.lock());
        outcome.rounds += 1;
        if hold && outcome.findings.is_empty() {
            site.hold_merges(false);
        }
    }

    /// Load, faults, healing and the oracle. In words what it came to; none if it was cut short.
    fn round_under_watch(&mut self, round: &Round, outcome: &mut Outcome) -> Option<String> {
        let Self { site, runtime, options, .. } = *self;
        let began = Instant::now();
        let load = Load::start(runtime, site, round.number as u64, options.devices, options.rate);
        until("the first acknowledgement", FIRST_ACK, || load.acked() > 0);
        self.inject(round, outcome);
        let injected_s = began.elapsed().as_secs_f64();
        site.heal();
        let (ledger, report, undecodable) = load.finish(runtime);
        let healed_s = began.elapsed().as_secs_f64();
        if self.cancel.is_cancelled() {
            return None;
        }
        let Verdict { findings, records, rows, letters, collapsed, extra } =
            self.oracle.check(runtime, &site.chain, || site.is_quiet(), &ledger, true);
        let checked_s = began.elapsed().as_secs_f64();
        if report.unacknowledged > 0 {
            outcome.findings.push(format!("{} readings were never acknowledged", report.unacknowledged));
        }
        let verdict = if findings.is_empty() { "ok" } else { "NOT OK" };
        outcome.acked += report.acked;
        outcome.findings.extend(findings);
        Some(format!(
            "{verdict}; faults {injected_s:.0} s, healed {:.0} s, checked {:.0} s; {} acked ({:.0}/s), {} sent again, \
             {undecodable} undecodable, {} reconnects; in all {records} records, {rows} rows, {collapsed} collapsed, {extra} more in Kafka than sent, \
             {letters} dead letters",
            healed_s - injected_s,
            checked_s - healed_s,
            report.acked,
            report.rate_per_s,
            report.resent,
            report.reconnects,
        ))
    }

    fn inject(&self, round: &Round, outcome: &mut Outcome) {
        let injecting = Injecting::new(&mut outcome.injected);
        timeline::run(&round.faults, self.cancel, |fault| {
            let seen = inject(self.site, fault, self.cancel);
            injecting.note(fault.kind, fault, &seen);
        });
    }
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
