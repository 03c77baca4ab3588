//! A run of a suite: rounds of load, faults, healing and the oracle.

use std::any::Any;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::hands::Seen;
use super::node::Node;
use super::plan::{Fault, Kind, PlanOptions, Round, plan};
use super::tally::{Injecting, Tally};
use super::timeline::{self, in_mb, over_budget};

const READY: Duration = Duration::from_secs(120);
const LOG_LINES: usize = 20;

/// What the run of every suite goes by.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The faults.
    pub plan: PlanOptions,
    /// Resident memory that no Penstock process may exceed, in bytes.
    pub memory_bytes_max: u64,
    /// Where data, configuration and logs go; must not be there yet. Kept if the run fails.
    pub folder: PathBuf,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome<K> {
    /// By kind.
    pub injected: Tally<K>,
    /// Rounds that were checked.
    pub rounds: usize,
    /// What the load came to, in words.
    pub load: String,
    /// What should have been put to the test beside the kinds of faults, and was not.
    pub untested: Vec<String>,
    /// What must not be, a line each. Nothing: all guarantees hold.
    pub findings: Vec<String>,
    /// Whether it was cut short from outside.
    pub interrupted: bool,
}

impl<K: Kind> Outcome<K> {
    /// Nothing yet; says what is about to be done, with this load.
    pub fn begin(options: &RunOptions, load: &str) -> Self {
        let PlanOptions { seed, faults, .. } = options.plan;
        let rounds = plan::<K>(&options.plan).len();
        println!(
            "seed {seed}: {faults} faults in {rounds} rounds; {load}; files in {}",
            options.folder.display()
        );
        Self {
            injected: Tally::new(),
            rounds: 0,
            load: String::new(),
            untested: Vec::new(),
            findings: Vec::new(),
            interrupted: false,
        }
    }

    /// Starts what the faults are done to; that it cannot be started is a finding.
    pub fn start<T>(&mut self, what: &str, start: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(start)) {
            Ok(started) => Some(started),
            Err(panic) => {
                self.findings.push(format!("{what} could not be started: {}", words(&*panic)));
                None
            }
        }
    }

    /// Whether everything was tried and nothing was found.
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty()
            && self.injected.never().is_empty()
            && self.untested.is_empty()
            && !self.interrupted
    }
}

/// What faults are done to. Everything ends when it is dropped, or when this process ends.
pub trait Site: Sync {
    /// The faults.
    type Kind: Kind;

    /// Every place for a Penstock process.
    fn nodes(&self) -> Vec<&Node>;

    /// What went wrong without a fault that explains it.
    fn unexpected(&self) -> &Mutex<Vec<String>>;

    /// No cut and no delay in any network.
    fn heal_networks(&self);

    /// The ends of the logs of its servers, by name.
    fn server_logs(&self, lines: usize) -> Vec<(&'static str, String)>;

    /// Ends whatever is left of faults, notes which processes have ended by themselves and starts them again; waits
    /// until all are ready.
    ///
    /// # Panics
    /// Where they do not become ready.
    fn heal(&self) {
        self.heal_networks();
        self.nodes().into_iter().for_each(|node| node.heal(self.unexpected()));
        self.wait_ready();
    }

    /// Waits until every process is ready that is not down on purpose.
    ///
    /// # Panics
    /// Where one does not become ready.
    fn wait_ready(&self) {
        self.nodes().into_iter().for_each(|node| node.wait_ready(READY));
    }

    /// The ends of all logs.
    fn log_tails(&self, lines: usize) -> String {
        let mut text = String::new();
        let nodes = self.nodes().into_iter().map(|node| (node.name.as_str(), node.log_tail(lines)));
        for (name, tail) in nodes.chain(self.server_logs(lines)) {
            let _ = writeln!(text, "--- the end of the log of {name}\n{tail}");
        }
        text
    }
}

/// What an oracle says of a round.
#[derive(Debug)]
pub struct Checked {
    /// What must not be, a line each.
    pub findings: Vec<String>,
    /// The figures, in words.
    pub figures: String,
}

/// A suite under way. All its methods may panic: a deadline that was missed fails the round like a finding.
pub trait Suite<'s> {
    /// What its faults are done to.
    type Site: Site + 's;
    /// The load while a round lasts.
    type Load;
    /// What is known of it afterwards.
    type Sent;

    /// What its faults are done to.
    fn site(&self) -> &'s Self::Site;

    /// What comes before a round.
    fn prepare(&mut self, _round: &Round<KindOf<'s, Self>>) {}

    /// Starts the load of a round, and waits until it is through.
    fn start_load(&mut self, round: &Round<KindOf<'s, Self>>) -> Self::Load;

    /// Does a fault from its beginning to its end, beside others.
    fn inject(site: &Self::Site, fault: &Fault<KindOf<'s, Self>>, cancel: &CancellationToken) -> Seen;

    /// Ends the load, when everything is healed.
    fn finish_load(&mut self, load: Self::Load) -> Self::Sent;

    /// Asks the oracle.
    fn check(&mut self, sent: Self::Sent) -> Checked;

    /// What comes after a round in which nothing was found.
    fn clear_up(&mut self, _round: &Round<KindOf<'s, Self>>) {}

    /// What comes after the last round, if nothing was found: findings, a line each.
    fn end(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// The kinds of faults of a suite.
pub type KindOf<'s, S> = <<S as Suite<'s>>::Site as Site>::Kind;

/// Does the rounds: prints what it does, stops after the first in which something was found, or when cancelled.
pub fn run<'s, S: Suite<'s>>(
    suite: &mut S,
    options: &RunOptions,
    cancel: &CancellationToken,
    outcome: &mut Outcome<KindOf<'s, S>>,
) {
    let rounds = plan(&options.plan);
    for round in &rounds {
        println!("\nround {} of {}:", round.number, rounds.len());
        round.faults.iter().for_each(|fault| println!("  {fault}"));
        let ended = catch_unwind(AssertUnwindSafe(|| {
            run_round(suite, round, options, cancel, outcome);
            let is_last = round.number == rounds.len();
            if is_last && outcome.findings.is_empty() && !cancel.is_cancelled() {
                outcome.findings.extend(suite.end());
            }
        }));
        if let Err(panic) = ended {
            outcome.findings.push(format!("the round could not be ended: {}", words(&*panic)));
        }
        outcome.interrupted = cancel.is_cancelled();
        if !outcome.findings.is_empty() {
            explain(suite.site(), options, round, &outcome.findings);
        }
        if !outcome.findings.is_empty() || outcome.interrupted {
            break;
        }
    }
}

fn run_round<'s, S: Suite<'s>>(
    suite: &mut S,
    round: &Round<KindOf<'s, S>>,
    options: &RunOptions,
    cancel: &CancellationToken,
    outcome: &mut Outcome<KindOf<'s, S>>,
) {
    let site = suite.site();
    suite.prepare(round);
    let (peaks, checked) =
        timeline::watch_memory(&site.nodes(), || run_watched(suite, round, cancel, outcome));
    let Some(checked) = checked else { return };
    println!("round {}: {checked}; memory in MB: {}", round.number, in_mb(&peaks));
    outcome.findings.extend(over_budget(&peaks, options.memory_bytes_max));
    outcome.findings.append(&mut site.unexpected().lock());
    outcome.rounds += 1;
    if outcome.findings.is_empty() {
        suite.clear_up(round);
    }
}

/// Load, faults, healing and the oracle. In words what it came to; none if it was cut short.
fn run_watched<'s, S: Suite<'s>>(
    suite: &mut S,
    round: &Round<KindOf<'s, S>>,
    cancel: &CancellationToken,
    outcome: &mut Outcome<KindOf<'s, S>>,
) -> Option<String> {
    let site = suite.site();
    let began = Instant::now();
    let load = suite.start_load(round);
    let injecting = Injecting::new(&mut outcome.injected);
    timeline::run(&round.faults, cancel, |fault| injecting.note(fault, &S::inject(site, fault, cancel)));
    let injected_s = began.elapsed().as_secs_f64();
    site.heal();
    let sent = suite.finish_load(load);
    let healed_s = began.elapsed().as_secs_f64();
    if cancel.is_cancelled() {
        return None;
    }
    let Checked { findings, figures } = suite.check(sent);
    let checked_s = began.elapsed().as_secs_f64();
    let verdict = if findings.is_empty() { "ok" } else { "NOT OK" };
    outcome.findings.extend(findings);
    Some(format!(
        "{verdict}; faults {injected_s:.0} s, healed {:.0} s, checked {:.0} s; {figures}",
        healed_s - injected_s,
        checked_s - healed_s,
    ))
}

fn explain<S: Site>(site: &S, options: &RunOptions, round: &Round<S::Kind>, findings: &[String]) {
    println!("\n{}", site.log_tails(LOG_LINES));
    let (seed, folder) = (options.plan.seed, options.folder.display());
    println!("FAILED: seed {seed}, round {}; files are in {folder}", round.number);
    println!("its faults:");
    round.faults.iter().for_each(|fault| println!("  {fault}"));
    println!("what was found:");
    findings.iter().for_each(|finding| println!("  {finding}"));
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}
