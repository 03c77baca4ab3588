//! Compares the alerts in Kafka with what the readings in Kafka must have raised.
//!
//! The rules are applied to every reading from the first on, in the order of each partition, without any state that was
//! saved. So it holds for rules that have not changed since the first reading. Where Kafka has deleted readings before they
//! were looked at, nobody can say what the rest must have raised: of those partitions it only tells doubled alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{ClientSettings, IncomingRecord, KafkaError, ScanFrom, Scanner};
use penstock_proto::alert_json::from_json;
use penstock_proto::topics::{CONTRACTS, DEVICE_ALERTS, LOW_BATTERY, READINGS};
use penstock_proto::v1::{AlertState, DeviceAlert};

use crate::engine::{Engine, Reading};
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
    /// Partitions of readings of which Kafka had deleted some before they were looked at.
    pub partitions_cut: usize,
    /// Alerts of those partitions that the readings which are left do not raise, or that are not there. No breaches.
    pub unsure: usize,
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
        let Self { readings, expected, found, breaches, partitions_cut, unsure } = self;
        if *partitions_cut > 0 {
            writeln!(
                out,
                "Kafka has deleted readings of {partitions_cut} partitions: only doubled alerts can be told there, and {unsure} \
                 that differ are not counted"
            )?;
        }
        let verdict =
            if breaches.is_empty() { "each alert is there once" } else { "ALERTS ARE NOT AS THEY MUST BE" };
        writeln!(
            out,
            "{readings} readings must have raised {expected} alerts beside those of a silence that lasts, {found} are there, \
             {} breaches: {verdict}",
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
    Audit::new(client.clone(), prefix, Arc::clone(rules)).look(now_ms)
}

/// An audit that can be gone on with: each look reads what has been written since the one before.
#[derive(Debug)]
pub struct Audit {
    client: ClientSettings,
    prefix: String,
    rules: Arc<RuleSet>,
    engines: BTreeMap<i32, Engine>,
    readings: u64,
    must: BTreeMap<AlertKey, DeviceAlert>,
    found: BTreeMap<AlertKey, (DeviceAlert, usize)>,
    unreadable: Vec<Breach>,
    /// Partitions of which readings were deleted before they were looked at.
    cut: BTreeSet<i32>,
    /// Where topics have not been read yet, by topic and partition.
    next: BTreeMap<(&'static str, i32), i64>,
}

impl Audit {
    /// An audit that has read nothing.
    pub fn new(client: ClientSettings, prefix: &str, rules: Arc<RuleSet>) -> Self {
        Self {
            client,
            prefix: prefix.to_owned(),
            rules,
            engines: BTreeMap::new(),
            readings: 0,
            must: BTreeMap::new(),
            found: BTreeMap::new(),
            unreadable: Vec::new(),
            cut: BTreeSet::new(),
            next: BTreeMap::new(),
        }
    }

    /// Reads on, and compares everything that has been read so far. Silence that lasts until `now_ms` may have been
    /// raised already, or not.
    ///
    /// # Errors
    /// [`KafkaError`] if Kafka cannot be read; the next look goes on where this one ended.
    pub fn look(&mut self, now_ms: i64) -> Result<Report, KafkaError> {
        // First: alerts that come while readings are read must not look false.
        for topic in [DEVICE_ALERTS, LOW_BATTERY] {
            self.read(topic, Self::alert)?;
        }
        self.read(READINGS, |audit, _, record| audit.reading(record))?;
        let mut may = Vec::new();
        for engine in self.engines.values() {
            engine.clone().advance(now_ms, &mut may);
        }
        let may: BTreeSet<AlertKey> =
            may.iter().map(|raised| key(&raised.alert, raised.low_battery)).collect();
        let is_cut = |alert: &DeviceAlert| self.cut.contains(&alert.source_partition);
        let (mut breaches, mut unsure) = (self.unreadable.clone(), 0);
        for (_, alert) in self.must.iter().filter(|(key, _)| !self.found.contains_key(key)) {
            if is_cut(alert) {
                unsure += 1;
            } else {
                breaches.push(Breach::Missing(Box::new(alert.clone())));
            }
        }
        for (key, (alert, times)) in &self.found {
            let is_false = !self.must.contains_key(key) && !may.contains(key);
            if is_false && !is_cut(alert) {
                breaches.push(Breach::False(Box::new(alert.clone())));
            } else if *times > 1 {
                breaches.push(Breach::Doubled(Box::new(alert.clone()), *times));
            } else if is_false {
                unsure += 1;
            }
        }
        Ok(Report {
            readings: self.readings,
            expected: self.must.len(),
            found: self.found.values().map(|(_, times)| times).sum(),
            breaches,
            partitions_cut: self.cut.len(),
            unsure,
        })
    }

    /// The alerts that were found so far, each once.
    pub fn alerts(&self) -> impl Iterator<Item = &DeviceAlert> {
        self.found.values().map(|(alert, _)| alert)
    }

    /// Shows what has been written to a topic since the last time to `each`.
    fn read(
        &mut self,
        name: &'static str,
        each: fn(&mut Self, &'static str, &IncomingRecord<'_>),
    ) -> Result<(), KafkaError> {
        let contract = CONTRACTS.iter().find(|contract| contract.name == name);
        let partitions = contract.map_or(0, |contract| i32::from(contract.partitions));
        let next = |number| self.next.get(&(name, number)).copied().unwrap_or(0);
        let from = ScanFrom::Offsets((0..partitions).map(|number| (number, next(number))).collect());
        let mut scanner = Scanner::open(&self.client, &format!("{}{name}", self.prefix), &from, true)?;
        if name == READINGS {
            let is_cut = |(number, oldest): &(i32, i64)| *oldest > next(*number);
            self.cut.extend(scanner.oldest().filter(is_cut).map(|(number, _)| number));
        }
        while let Some(batch) = scanner.next_batch(RECORDS_MAX, TIMEOUT)? {
            for record in &batch {
                self.next.insert((name, record.partition), record.offset + 1);
                each(self, name, &record);
            }
        }
        Ok(())
    }

    fn reading(&mut self, record: &IncomingRecord<'_>) {
        let Some((device, view)) = stage::reading(record) else { return };
        self.readings += 1;
        let new = || Engine::new(Arc::clone(&self.rules), record.partition);
        let engine = self.engines.entry(record.partition).or_insert_with(new);
        let received_ms = stage::received_ms(record, &view);
        let mut raised = Vec::new();
        engine.reading(&Reading { device, offset: record.offset, received_ms, view: &view }, &mut raised);
        let keyed = raised.into_iter().map(|raised| (key(&raised.alert, raised.low_battery), raised.alert));
        self.must.extend(keyed);
    }

    fn alert(&mut self, name: &'static str, record: &IncomingRecord<'_>) {
        match from_json(record.payload) {
            Ok(alert) => {
                self.found.entry(key(&alert, name == LOW_BATTERY)).or_insert((alert, 0)).1 += 1;
            }
            Err(_) => self.unreadable.push(Breach::Unreadable {
                topic: format!("{}{name}", self.prefix),
                partition: record.partition,
                offset: record.offset,
            }),
        }
    }
}

fn key(alert: &DeviceAlert, low_battery: bool) -> AlertKey {
    AlertKey { low_battery, id: alert.id.clone(), state: alert.state, repeat: alert.repeat }
}
