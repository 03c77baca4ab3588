//! The fault suite for rows: load with a ledger, a seeded sequence of faults in every part of the chain and in the networks
//! between them, and after each round of them an oracle that holds what was acknowledged against what is stored.
//!
//! [`run`] is the whole of it, for the program `chaos` and for the test of the same name.

mod inject;
pub mod kind;
pub mod load;
pub mod networks;
pub mod oracle;
pub mod site;

use std::sync::Arc;
use std::time::Duration;

use penstock_loadgen::{Ledger, Report};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use self::kind::Kind;
use self::load::Load;
use self::oracle::{Oracle, Verdict};
use self::site::Site;
use crate::faults::hands::Seen;
use crate::faults::plan::{Fault, Round};
use crate::faults::suite::{self, Checked, Outcome, RunOptions, Suite};
use crate::wait::until;

const FIRST_ACK: Duration = Duration::from_secs(60);

/// What a run does.
#[derive(Clone, Debug)]
pub struct Options {
    /// As in every suite.
    pub run: RunOptions,
    /// Devices of the fleet.
    pub devices: usize,
    /// Readings they publish a second, together.
    pub rate: f64,
}

/// Runs everything: prints what it does, stops after the first round in which something was found, or when cancelled.
///
/// # Panics
/// Where there can be no runtime.
pub fn run(options: &Options, cancel: &CancellationToken) -> Outcome<Kind> {
    let runtime = Runtime::new().unwrap();
    let Options { run, devices, rate } = options;
    let mut outcome = Outcome::begin(run, &format!("{devices} devices, {rate} readings/s"));
    let site = outcome.start("the chain", || Site::start(&runtime, &run.folder));
    let Some(site) = site else { return outcome };
    let oracle = Oracle::default();
    let mut rows = Rows { runtime: &runtime, site: &site, options, oracle, acked: 0 };
    suite::run(&mut rows, run, cancel, &mut outcome);
    outcome.load = format!("{} readings acknowledged", rows.acked);
    outcome
}

struct Rows<'s> {
    runtime: &'s Runtime,
    site: &'s Site,
    options: &'s Options,
    oracle: Oracle,
    acked: u64,
}

/// In every other round each insert can be seen; in the others merges go on, as they do in service.
const fn holds_merges(round: &Round<Kind>) -> bool {
    round.number % 2 == 1
}

impl<'s> Suite<'s> for Rows<'s> {
    type Site = Site;
    type Load = Load;
    type Sent = (Arc<Ledger>, Report, u64);

    fn site(&self) -> &'s Site {
        self.site
    }

    fn prepare(&mut self, round: &Round<Kind>) {
        if holds_merges(round) {
            self.site.hold_merges(true);
        }
    }

    fn start_load(&mut self, round: &Round<Kind>) -> Load {
        let Options { devices, rate, .. } = *self.options;
        let load = Load::start(self.runtime, self.site, round.number as u64, devices, rate);
        until("the first acknowledgement", FIRST_ACK, || load.acked() > 0);
        load
    }

    fn inject(site: &Site, fault: &Fault<Kind>, cancel: &CancellationToken) -> Seen {
        inject::inject(site, fault, cancel)
    }

    fn finish_load(&mut self, load: Load) -> (Arc<Ledger>, Report, u64) {
        load.finish(self.runtime)
    }

    fn check(&mut self, (ledger, report, undecodable): (Arc<Ledger>, Report, u64)) -> Checked {
        let site = self.site;
        let verdict = self.oracle.check(self.runtime, &site.chain, || site.is_quiet(), &ledger, true);
        let Verdict { mut findings, records, rows, letters, collapsed, extra } = verdict;
        let Report { acked, rate_per_s, resent, reconnects, unacknowledged, .. } = report;
        if unacknowledged > 0 {
            findings.push(format!("{unacknowledged} readings were never acknowledged"));
        }
        self.acked += acked;
        let figures = format!(
            "{acked} acked ({rate_per_s:.0}/s), {resent} sent again, {undecodable} undecodable, {reconnects} reconnects; \
             in all {records} records, {rows} rows, {collapsed} collapsed, {extra} more in Kafka than sent, \
             {letters} dead letters"
        );
        Checked { findings, figures }
    }

    fn clear_up(&mut self, round: &Round<Kind>) {
        if holds_merges(round) {
            self.site.hold_merges(false);
        }
    }
}
