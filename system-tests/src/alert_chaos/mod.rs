//! The fault suite for alerts: readings straight into Kafka, a group of alerters, a seeded sequence of faults in them, in
//! Kafka and in the networks between; and after each round of them an oracle that knows exactly which alerts must exist.
//!
//! [`run`] is the whole of it, for the program `alert-chaos` and for the test of the same name.

mod inject;
pub mod kind;
pub mod load;
pub mod oracle;
pub mod site;

use std::time::Duration;

use nix::sys::signal::Signal;
use penstock_proto::topics::READINGS;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use self::kind::Kind;
use self::load::{Devices, Load, Sent};
use self::oracle::{Oracle, Verdict};
use self::site::Site;
use crate::faults::hands::Seen;
use crate::faults::node::Node;
use crate::faults::plan::{Fault, Round};
use crate::faults::suite::{self, Checked, Outcome, RunOptions, Suite};
use crate::wait::until;

const FIRST_READING: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(60);

/// What a run does.
#[derive(Clone, Debug)]
pub struct Options {
    /// As in every suite.
    pub run: RunOptions,
    /// Devices; each has four readings a second when it is not silent.
    pub devices: u32,
}

/// Runs everything: prints what it does, stops after the first round in which something was found, or when cancelled.
/// Rules that never fired or were never resolved count as untested.
///
/// # Panics
/// Where there can be no runtime.
pub fn run(options: &Options, cancel: &CancellationToken) -> Outcome<Kind> {
    let runtime = Runtime::new().unwrap();
    let Options { run, devices } = options;
    let mut outcome = Outcome::begin(run, &format!("{devices} devices"));
    let site = outcome.start("the alerters", || Site::start(&runtime, &run.folder, *devices));
    let Some(site) = site else { return outcome };
    let oracle = Oracle::new(&site);
    let devices = Some(Devices::new(run.plan.seed, *devices));
    let mut alerts =
        Alerts { runtime: &runtime, site: &site, cancel, oracle, devices, readings: 0, expected: 0 };
    suite::run(&mut alerts, run, cancel, &mut outcome);
    println!("\n{}", alerts.oracle.table());
    outcome.untested = alerts.oracle.untested(&site);
    outcome.load = format!("{} readings, {} alerts", alerts.readings, alerts.expected);
    outcome
}

struct Alerts<'s> {
    runtime: &'s Runtime,
    site: &'s Site,
    cancel: &'s CancellationToken,
    oracle: Oracle,
    /// With the load while there is one.
    devices: Option<Devices>,
    readings: u64,
    expected: usize,
}

impl<'s> Suite<'s> for Alerts<'s> {
    type Site = Site;
    type Load = Load;
    type Sent = Sent;

    fn site(&self) -> &'s Site {
        self.site
    }

    /// Faults meet alerters that are at work.
    fn start_load(&mut self, _round: &Round<Kind>) -> Load {
        let site = self.site;
        let topic = format!("{}{READINGS}", site.prefix());
        let devices = self.devices.take().expect("the load of the round before has given them back");
        let load = Load::start(self.runtime, &site.client(), &topic, devices);
        let read = |node: &Node| {
            node.with(|process| process.metric("penstock_alerts_readings_total", "")).unwrap_or(0.0)
        };
        until("an alerter to read", FIRST_READING, || {
            self.cancel.is_cancelled() || site.alerters.iter().any(|node| read(node) > 0.0)
        });
        load
    }

    fn inject(site: &Site, fault: &Fault<Kind>, cancel: &CancellationToken) -> Seen {
        inject::inject(site, fault, cancel)
    }

    fn finish_load(&mut self, load: Load) -> Sent {
        let (devices, sent) = load.finish(self.runtime);
        self.devices = Some(devices);
        sent
    }

    fn check(&mut self, sent: Sent) -> Checked {
        let Verdict { findings, readings, expected, found } = self.oracle.check(self.site);
        (self.readings, self.expected) = (readings, expected);
        let Sent { acked, given_up, undecodable } = sent;
        let figures = format!(
            "{acked} acked, {given_up} given up, {undecodable} undecodable; in all {readings} readings, {expected} alerts \
             must be there, {found} are"
        );
        Checked { findings, figures }
    }

    /// Ends every alerter in order: that must raise nothing, and lose nothing.
    fn end(&mut self) -> Vec<String> {
        let mut findings = Vec::new();
        for alerter in &self.site.alerters {
            let Some(mut process) = alerter.take() else { continue };
            process.signal(Signal::SIGTERM);
            let status = process.wait_end(END);
            if !status.success() {
                findings.push(format!("{} ended after SIGTERM with {status}", alerter.name));
            }
        }
        findings.extend(self.oracle.check(self.site).findings);
        findings
    }
}
