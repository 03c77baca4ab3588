//! The oracle: after a round, when everything is healed, holds the alerts in Kafka against those that the readings in Kafka
//! must have raised: nothing missing, nothing twice, nothing that no reading explains.
//!
//! The topic of readings is the ledger. Silence is no exception: an episode exists exactly where two receipts of a device
//! lie too far apart, and an alerter that goes by the clock may say so earlier, but never otherwise, because its grace is
//! longer than any reading is on its way.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use penstock_alerter::audit::{Audit, Breach, Report};
use penstock_kafka::{GroupObserver, KafkaError, TopicPartition};
use penstock_proto::topics::{ALERT_STATE, CONTRACTS, DEVICE_ALERTS, LOW_BATTERY};
use penstock_proto::v1::AlertState;

use super::site::Site;
use crate::reading::now_ms;

/// When the number of missing alerts stands still for this long, they are missing. Longer than alerters wait for offsets
/// that Kafka has left undecided (25 s), several times in a row if partitions move meanwhile.
const STALLED: Duration = Duration::from_secs(120);
/// When it stands still for this long, it is looked whether a transaction hangs that Kafka has lost track of.
const HANGING: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Breaches that are shown.
const SHOWN_MAX: usize = 20;
/// Counters of an alerter that stay at 0: its state can be read, and no reading is gone before it was seen.
const ZERO: [&str; 2] = ["penstock_alerts_states_unreadable_total", "penstock_alerts_missed_total"];

/// What remains known from round to round.
pub struct Oracle {
    audit: Audit,
}

/// What a check came to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Everything that must not be, a line each.
    pub findings: Vec<String>,
    /// Readings since the beginning.
    pub readings: u64,
    /// Alerts that they must have raised.
    pub expected: usize,
    /// Alerts that are there.
    pub found: usize,
}

impl Oracle {
    /// For the topics and the rules of a site.
    ///
    /// # Panics
    /// Where the rules are wrong.
    pub fn new(site: &Site) -> Self {
        Self { audit: Audit::new(site.client(), site.prefix(), site.rules.rules()) }
    }

    /// Waits until no alert is missing, and looks at everything.
    pub fn check(&mut self, site: &Site) -> Verdict {
        let report = match self.settle(site) {
            Ok(report) => report,
            Err(error) => return Verdict { findings: vec![error], ..Verdict::default() },
        };
        let mut findings: Vec<String> =
            report.breaches.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
        if report.breaches.len() > SHOWN_MAX {
            findings.push(format!("in all {} alerts are not as they must be", report.breaches.len()));
        }
        for alerter in &site.alerters {
            for name in ZERO {
                let count = alerter.with(|process| process.metric(name, "")).unwrap_or(0.0);
                if count > 0.0 {
                    findings.push(format!("{}: {name} is {count}", alerter.name));
                }
            }
        }
        let Report { readings, expected, found, .. } = report;
        Verdict { findings, readings, expected, found }
    }

    fn settle(&mut self, site: &Site) -> Result<Report, String> {
        let (mut missing, mut progress_at) = (usize::MAX, Instant::now());
        let mut healed = false;
        loop {
            let looked = self.audit.look(now_ms());
            let is_missing = |breach: &&Breach| matches!(breach, Breach::Missing(_));
            let now = looked.as_ref().map(|report| report.breaches.iter().filter(is_missing).count());
            if let Ok(now) = now
                && now < missing
            {
                (missing, progress_at) = (now, Instant::now());
            }
            if now == Ok(0) || progress_at.elapsed() >= STALLED {
                return looked.map_err(|error| format!("Kafka cannot be read: {error}"));
            }
            if progress_at.elapsed() >= HANGING && !healed {
                healed = true;
                if end_hanging_transactions(site) > 0 {
                    progress_at = Instant::now();
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// How often each rule has fired and was resolved.
    fn by_rule(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for alert in self.audit.alerts() {
            let (firing, resolved) = counts.entry(&alert.rule).or_default();
            *(if alert.state() == AlertState::Resolved { resolved } else { firing }) += 1;
        }
        counts
    }

    /// Alerts by rule, a line each.
    pub fn table(&self) -> String {
        let mut text = format!("{:<36} {:>8} {:>8}\n", "rule", "firing", "resolved");
        for (rule, (firing, resolved)) in self.by_rule() {
            let _ = writeln!(text, "{rule:<36} {firing:>8} {resolved:>8}");
        }
        text
    }

    /// Rules that have never fired or were never resolved: of them nothing was tested.
    pub fn untested(&self, site: &Site) -> Vec<String> {
        let counts = self.by_rule();
        let rules = site.rules.rules();
        let names = rules.rules().iter().map(|rule| rule.name().to_owned());
        let is_tested =
            |name: &str| counts.get(name).is_some_and(|(firing, resolved)| *firing.min(resolved) > 0);
        names.filter(|name| !is_tested(name)).collect()
    }
}

/// Does what docs/OPERATIONS.md tells an operator to do about alerts that Kafka does not show: a broker that is restarted
/// while it completes a transaction can leave it hanging. Returns how many there were.
fn end_hanging_transactions(site: &Site) -> usize {
    let mut ended = 0;
    for name in [DEVICE_ALERTS, LOW_BATTERY, ALERT_STATE] {
        let topic = format!("{}{name}", site.prefix());
        let held = held_back(site, name, &topic).unwrap();
        let aborted = site.kafka.abort_hanging(&topic, held).unwrap();
        if aborted > 0 {
            println!("  {aborted} transactions that Kafka had left hanging in {topic} were ended");
        }
        ended += aborted;
    }
    ended
}

/// Partitions that can be read only up to an open transaction.
fn held_back(site: &Site, name: &str, topic: &str) -> Result<Vec<i32>, KafkaError> {
    let contract = CONTRACTS.iter().find(|contract| contract.name == name);
    let observer = |is_committed| GroupObserver::new(&site.client(), "system-test", is_committed);
    let (written, readable) = (observer(false)?, observer(true)?);
    let mut held = Vec::new();
    for partition in 0..contract.map_or(0, |contract| i32::from(contract.partitions)) {
        let named = TopicPartition::new(topic, partition);
        if readable.watermarks(&named, TIMEOUT)?.1 < written.watermarks(&named, TIMEOUT)?.1 {
            held.push(partition);
        }
    }
    Ok(held)
}
