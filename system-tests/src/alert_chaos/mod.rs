//! The fault suite for alerts: readings straight into Kafka, a group of alerters, a seeded sequence of faults in them, in
//! Kafka and in the networks between; and after each round of them an oracle that knows exactly which alerts must exist.
//!
//! [`run`] is the whole of it, for the program `alert-chaos` and for the test of the same name.

pub mod inject;
pub mod kind;
pub mod load;
pub mod oracle;
pub mod plan;
pub mod site;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use penstock_proto::topics::READINGS;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use self::inject::inject;
use self::kind::Kind;
use self::load::{Devices, Load};
use self::oracle::{Oracle, Verdict};
use self::plan::{PlanOptions, Round, plan};
use self::site::Site;
use crate::chaos::tally::{Injecting, Tally};
use crate::chaos::timeline::{self, in_mb, over_budget};
use crate::chaos::words;
use crate::wait::until;

const FIRST_READING: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(60);
const LOG_LINES: usize = 20;

/// What a run does.
#[derive(Clone, Debug)]
pub struct Options {
    /// The faults.
    pub plan: PlanOptions,
    /// Devices; each has four readings a second when it is not silent.
    pub devices: u32,
    /// Resident memory that no alerter may exceed, in bytes.
    pub memory_bytes_max: u64,
    /// Where data, configuration and logs go; must not be there yet. Kept if the run fails.
    pub folder: PathBuf,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// By kind.
    pub injected: Tally<Kind>,
    /// Readings in Kafka.
    pub readings: u64,
    /// Alerts that they must have raised.
    pub alerts: usize,
    /// Rounds that were checked.
    pub rounds: usize,
    /// Rules that never fired or were never resolved.
    pub untested: Vec<String>,
    /// What must not be, a line each. Nothing: all guarantees hold.
    pub findings: Vec<String>,
    /// Whether it was cut short from outside.
    pub interrupted: bool,
}

impl Outcome {
    /// Whether everything was tried and nothing was found.
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty()
            && self.injected.never().is_empty()
            && self.untested.is_empty()
            && !self.interrupted
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
        "seed {seed}: {faults} faults in {} rounds; {} devices; files in {}",
        rounds.len(),
        options.devices,
        options.folder.display()
    );
    let mut outcome = Outcome {
        injected: Tally::new(Kind::ALL.to_vec()),
        readings: 0,
        alerts: 0,
        rounds: 0,
        untested: Vec::new(),
        findings: Vec::new(),
        interrupted: false,
    };
    let start = || Site::start(&runtime, &options.folder, options.devices);
    let site = match catch_unwind(AssertUnwindSafe(start)) {
        Ok(site) => site,
        Err(panic) => {
            outcome.findings.push(format!("the alerters could not be started: {}", words(&*panic)));
            return outcome;
        }
    };
    let oracle = Oracle::new(&site);
    let devices = Some(Devices::new(seed, options.devices));
    let mut suite = Suite { runtime: &runtime, site: &site, options, cancel, oracle, devices };
    for round in &rounds {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            suite.round(round, rounds.len(), &mut outcome);
            if round.number == rounds.len() && outcome.findings.is_empty() && !cancel.is_cancelled() {
                suite.end(&mut outcome);
            }
        }));
        // What panics is a deadline that was missed, in a fault or in a check: it fails the round like a finding.
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
    outcome.untested = suite.oracle.untested(&site);
    println!("\n{}\n{}", suite.oracle.table(), outcome.injected);
    outcome
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
    /// With the load while there is one.
    devices: Option<Devices>,
}

impl Suite<'_> {
    fn round(&mut self, round: &Round, of: usize, outcome: &mut Outcome) {
        println!("\nround {} of {of}:", round.number);
        round.faults.iter().for_each(|fault| println!("  {fault}"));
        let site = self.site;
        let under_watch = || self.round_under_watch(round, outcome);
        let (peaks, checked) = timeline::watch_memory(site.alerters.iter(), under_watch);
        let Some(checked) = checked else { return };
        println!("round {}: {checked}; memory in MB: {}", round.number, in_mb(&peaks));
        outcome.findings.extend(over_budget(&peaks, self.options.memory_bytes_max));
        outcome.findings.append(&mut site.unexpected.lock());
        outcome.rounds += 1;
    }

    /// Load, faults, healing and the oracle. In words what it came to; none if it was cut short.
    fn round_under_watch(&mut self, round: &Round, outcome: &mut Outcome) -> Option<String> {
        let Self { site, runtime, .. } = *self;
        let began = Instant::now();
        let topic = format!("{}{READINGS}", site.prefix());
        let load = Load::start(runtime, &site.client(), &topic, self.devices.take()?);
        self.wait_for_reading();
        let injecting = Injecting::new(&mut outcome.injected);
        timeline::run(&round.faults, self.cancel, |fault| {
            let seen = inject(site, fault, self.cancel);
            injecting.note(fault.kind, fault, &seen);
        });
        let injected_s = began.elapsed().as_secs_f64();
        site.heal();
        let (devices, sent) = load.finish(runtime);
        self.devices = Some(devices);
        let healed_s = began.elapsed().as_secs_f64();
        if self.cancel.is_cancelled() {
            return None;
        }
        let Verdict { findings, readings, expected, found } = self.oracle.check(site);
        let checked_s = began.elapsed().as_secs_f64();
        let verdict = if findings.is_empty() { "ok" } else { "NOT OK" };
        (outcome.readings, outcome.alerts) = (readings, expected);
        outcome.findings.extend(findings);
        Some(format!(
            "{verdict}; faults {injected_s:.0} s, healed {:.0} s, checked {:.0} s; {} acked, {} given up, {} undecodable; \
             in all {readings} readings, {expected} alerts must be there, {found} are",
            healed_s - injected_s,
            checked_s - healed_s,
            sent.acked,
            sent.given_up,
            sent.undecodable,
        ))
    }

    /// Faults meet alerters that are at work.
    fn wait_for_reading(&self) {
        until("an alerter to read", FIRST_READING, || {
            let read = |node: &crate::chaos::node::Node| {
                node.with(|process| process.metric("penstock_alerts_readings_total", "")).unwrap_or(0.0)
            };
            self.cancel.is_cancelled() || self.site.alerters.iter().any(|node| read(node) > 0.0)
        });
    }

    /// Ends every alerter in order: that must raise nothing, and lose nothing.
    fn end(&mut self, outcome: &mut Outcome) {
        for alerter in &self.site.alerters {
            let Some(mut process) = alerter.take() else { continue };
            process.signal(Signal::SIGTERM);
            let status = process.wait_end(END);
            if !status.success() {
                outcome.findings.push(format!("{} ended after SIGTERM with {status}", alerter.name));
            }
        }
        outcome.findings.extend(self.oracle.check(self.site).findings);
    }
}
