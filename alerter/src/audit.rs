//! Compares the alerts in Kafka with what the readings in Kafka must have raised.
//!
//! The rules are applied to every reading from the first on, in the order of each partition, without any state that was
//! saved. So it holds for rules that have not changed since the first reading, and while no reading has been deleted.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{ClientSettings, KafkaError, ScanFrom, Scanner};
use penstock_proto::alert_json::from_json;
use penstock_proto::topics::{DEVICE_ALERTS, LOW_BATTERY, READINGS};
use penstock_proto::v1::{AlertState, DeviceAlert};

use crate::engine::{Engine, Raised, Reading};
use crate::rules::RuleSet;
use crate::stage;

/// Records looked at in one go.
const RECORDS_MAX: usize = 10_000;
/// How long Kafka may be silent in the middle of a topic.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What makes an alert different from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlertKey {
    /// Whether it belongs into the topic of low batteries.
    pub low_battery: bool,
    /// Its id.
    pub id: String,
    /// The number of its state.
    pub state: i32,
    /// Which repetition it is.
    pub repeat: u32,
}

/// An alert that is not there as it should be.
#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// Readings have raised it, and it is not in its topic.
    Missing(Box<DeviceAlert>),
    /// It is in its topic, and no reading has raised it.
    False(Box<DeviceAlert>),
    /// It is in its topic so often.
    Doubled(Box<DeviceAlert>, usize),
    /// A record of an alert topic is no alert.
    Unreadable {
        /// Name of the topic.
        topic: String,
        /// Number of the partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, alert) = match self {
            Self::Missing(alert) => ("missing".to_owned(), alert),
            Self::False(alert) => ("false".to_owned(), alert),
            Self::Doubled(alert, times) => (format!("{times} times"), alert),
            Self::Unreadable { topic, partition, offset } => {
                return write!(f, "{topic}[{partition}] at {offset} is no alert");
            }
        };
        let DeviceAlert { rule, device_id, onset, repeat, source_partition, source_offset, .. } = &**alert;
        let state = if alert.state() == AlertState::Resolved { "resolved" } else { "firing" };
        write!(
            f,
            "{what}: {rule} {state} (repetition {repeat}) of {device_id}, onset {onset}, caused by partition \
             {source_partition} offset {source_offset}"
        )
    }
}

/// What was compared, and what came out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Readings that the rules were applied to.
    pub readings: u64,
    /// Alerts that must be there.
    pub expected: usize,
    /// Alerts that are there.
    pub found: usize,
    /// What is wrong.
    pub breaches: Vec<Breach>,
}

impl Report {
    /// Whether every alert is there once, and no other.
    pub fn is_ok(&self) -> bool {
        self.breaches.is_empty()
    }

    /// Writes it for people: each breach on a line, then the numbers.
    ///
    /// # Errors
    /// [`io::Error`] of `out`.
    pub fn print(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.breaches.iter().try_for_each(|breach| writeln!(out, "{breach}"))?;
        let Self { readings, expected, found, breaches } = self;
        let verdict =
            if breaches.is_empty() { "each alert is there once" } else { "ALERTS ARE NOT AS THEY MUST BE" };
        writeln!(
            out,
            "{readings} readings must have raised {expected} alerts, {found} are there, {} breaches: {verdict}",
            breaches.len()
        )
    }
}

/// Applies `rules` to every reading, and compares what they raise with the alert topics. Silence that lasts until
/// `now_ms` may have been raised already, or not.
///
/// # Errors
/// [`KafkaError`] if Kafka cannot be read.
pub fn audit(
    client: &ClientSettings,
    prefix: &str,
    rules: &Arc<RuleSet>,
    now_ms: i64,
) -> Result<Report, KafkaError> {
    // First: alerts that come while readings are read must not look false.
    let mut report = Report::default();
    let found = found(client, prefix, &mut report)?;
    let Expected { must, may, readings } = expected(client, prefix, rules, now_ms)?;
    report.readings = readings;
    report.expected = must.len();
    report.found = found.values().map(|(_, times)| times).sum();
    for (key, alert) in &must {
        if !found.contains_key(key) {
            report.breaches.push(Breach::Missing(Box::new(alert.clone())));
        }
    }
    for (key, (alert, times)) in found {
        if !must.contains_key(&key) && !may.contains_key(&key) {
            report.breaches.push(Breach::False(Box::new(alert)));
        } else if times > 1 {
            report.breaches.push(Breach::Doubled(Box::new(alert), times));
        }
    }
    Ok(report)
}

struct Expected {
    must: BTreeMap<AlertKey, DeviceAlert>,
    may: BTreeMap<AlertKey, DeviceAlert>,
    readings: u64,
}

fn expected(
    client: &ClientSettings,
    prefix: &str,
    rules: &Arc<RuleSet>,
    now_ms: i64,
) -> Result<Expected, KafkaError> {
    let mut engines: BTreeMap<i32, Engine> = BTreeMap::new();
    let (mut must, mut may, mut readings) = (Vec::new(), Vec::new(), 0);
    let mut scanner = Scanner::open(client, &format!("{prefix}{READINGS}"), &ScanFrom::Beginning, true)?;
    while let Some(batch) = scanner.next_batch(RECORDS_MAX, TIMEOUT)? {
        for record in &batch {
            let Some((device, view)) = stage::reading(&record) else { continue };
            readings += 1;
            let engine = engines
                .entry(record.partition)
                .or_insert_with(|| Engine::new(Arc::clone(rules), record.partition));
            let received_ms = stage::received_ms(&record, &view);
            engine.reading(&Reading { device, offset: record.offset, received_ms, view: &view }, &mut must);
        }
    }
    engines.values_mut().for_each(|engine| engine.advance(now_ms, &mut may));
    Ok(Expected { must: by_key(must), may: by_key(may), readings })
}

fn by_key(raised: Vec<Raised>) -> BTreeMap<AlertKey, DeviceAlert> {
    raised.into_iter().map(|raised| (key(&raised.alert, raised.low_battery), raised.alert)).collect()
}

fn key(alert: &DeviceAlert, low_battery: bool) -> AlertKey {
    AlertKey { low_battery, id: alert.id.clone(), state: alert.state, repeat: alert.repeat }
}

fn found(
    client: &ClientSettings,
    prefix: &str,
    report: &mut Report,
) -> Result<BTreeMap<AlertKey, (DeviceAlert, usize)>, KafkaError> {
    let mut found: BTreeMap<AlertKey, (DeviceAlert, usize)> = BTreeMap::new();
    for name in [DEVICE_ALERTS, LOW_BATTERY] {
        let topic = format!("{prefix}{name}");
        let mut scanner = Scanner::open(client, &topic, &ScanFrom::Beginning, true)?;
        while let Some(batch) = scanner.next_batch(RECORDS_MAX, TIMEOUT)? {
            for record in &batch {
                let Ok(alert) = from_json(record.payload) else {
                    let (partition, offset) = (record.partition, record.offset);
                    report.breaches.push(Breach::Unreadable { topic: topic.clone(), partition, offset });
                    continue;
                };
                found.entry(key(&alert, name == LOW_BATTERY)).or_insert((alert, 0)).1 += 1;
            }
        }
    }
    Ok(found)
}
