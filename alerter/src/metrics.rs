//! What the alert stage counts: `penstock_alerts_*`.

use std::sync::Arc;

use penstock_proto::v1::{AlertState, DeviceAlert};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::engine::{Counts, Engine};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlertLabels {
    rule: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    partition: i32,
}

/// The metrics of the alert stage. Clones share the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    readings: Counter,
    unreadable: Counter,
    missed: Counter,
    alerts: Family<AlertLabels, Counter>,
    devices: Gauge,
    firing: Gauge,
    state_bytes: Gauge,
    late: Gauge,
    evaluations: Gauge,
    suppressed: Gauge,
    transactions: Counter,
    transaction_records: Counter,
    transaction_failures: Family<KindLabels, Counter>,
    transaction_seconds: Seconds,
    checkpoints: Counter,
    restores: Counter,
    states_unreadable: Counter,
    rebalances: Family<EventLabels, Counter>,
    lag: Family<PartitionLabels, Gauge>,
    reloads: Counter,
    reload_errors: Counter,
}

#[derive(Debug)]
struct Seconds(Histogram);

impl Default for Seconds {
    /// 1 ms to 33 s.
    fn default() -> Self {
        Self(Histogram::new((0..16).map(|power| 0.001 * f64::from(1u32 << power))))
    }
}

/// Sums over the partitions that are being read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    devices: usize,
    firing: usize,
    bytes: usize,
    counts: Counts,
}

impl Totals {
    pub(crate) fn add(&mut self, engine: &Engine) {
        self.devices += engine.devices();
        self.firing += engine.firing();
        self.bytes += engine.bytes();
        let counts = engine.counts();
        self.counts.late += counts.late;
        self.counts.evaluations += counts.evaluations;
        self.counts.suppressed += counts.suppressed;
    }
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let inner = Inner::default();
        let registry = registry.sub_registry_with_prefix("penstock_alerts");
        inner.register_rules(registry);
        inner.register_transactions(registry);
        Self(Arc::new(inner))
    }

    /// Records came, of which some are no readings.
    pub(crate) fn read(&self, records: u64, unreadable: u64) {
        self.0.readings.inc_by(records);
        self.0.unreadable.inc_by(unreadable);
    }

    /// Kafka has deleted readings that no rule has seen.
    pub(crate) fn missed(&self, readings: i64) {
        self.0.missed.inc_by(readings.max(0).cast_unsigned());
    }

    /// An alert is committed.
    pub(crate) fn raised(&self, alert: &DeviceAlert) {
        let state = match alert.state() {
            AlertState::Resolved => "resolved",
            _ if alert.repeat > 0 => "repeated",
            _ => "firing",
        };
        self.0.alerts.get_or_create(&AlertLabels { rule: alert.rule.clone(), state }).inc();
    }

    pub(crate) fn totals(&self, totals: &Totals) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.devices.set(gauge(totals.devices));
        self.0.firing.set(gauge(totals.firing));
        self.0.state_bytes.set(gauge(totals.bytes));
        self.0.late.set(totals.counts.late.cast_signed());
        self.0.evaluations.set(totals.counts.evaluations.cast_signed());
        self.0.suppressed.set(totals.counts.suppressed.cast_signed());
    }

    pub(crate) fn committed(&self, records: usize, seconds: f64) {
        self.0.transactions.inc();
        self.0.transaction_records.inc_by(records as u64);
        self.0.transaction_seconds.0.observe(seconds);
    }

    pub(crate) fn transaction_failed(&self, kind: &'static str) {
        self.0.transaction_failures.get_or_create(&KindLabels { kind }).inc();
    }

    pub(crate) fn checkpointed(&self) {
        self.0.checkpoints.inc();
    }

    /// A partition was restored; so many states could not be read.
    pub(crate) fn restored(&self, unreadable: u64) {
        self.0.restores.inc();
        self.0.states_unreadable.inc_by(unreadable);
    }

    pub(crate) fn rebalanced(&self, event: &'static str) {
        self.0.rebalances.get_or_create(&EventLabels { event }).inc();
    }

    pub(crate) fn lag(&self, partition: i32, records: i64) {
        self.0.lag.get_or_create(&PartitionLabels { partition }).set(records);
    }

    pub(crate) fn partition_gone(&self, partition: i32) {
        self.0.lag.remove(&PartitionLabels { partition });
    }

    /// The rules file was read again, well or not.
    pub(crate) fn reloaded(&self, well: bool) {
        if well {
            self.0.reloads.inc()
        } else {
            self.0.reload_errors.inc()
        };
    }
}

impl Inner {
    fn register_rules(&self, registry: &mut Registry) {
        registry.register("readings", "Records read from the readings topic", self.readings.clone());
        registry.register(
            "unreadable",
            "Records that are no reading of their key's device; storage makes them dead letters",
            self.unreadable.clone(),
        );
        registry.register(
            "missed",
            "Records that Kafka deleted before any rule had seen them",
            self.missed.clone(),
        );
        registry.register("alerts", "Alerts in their topics, by rule and state", self.alerts.clone());
        registry.register("devices", "Devices of which a rule knows anything", self.devices.clone());
        registry.register("firing", "Episodes under way", self.firing.clone());
        registry.register_with_unit(
            "state",
            "Memory of what the rules know of devices",
            Unit::Bytes,
            self.state_bytes.clone(),
        );
        registry.register(
            "late",
            "Times that a rule passed over a reading later than it allows, in the partitions at hand",
            self.late.clone(),
        );
        registry.register(
            "evaluations",
            "Times that a rule was applied to a reading, in the partitions at hand",
            self.evaluations.clone(),
        );
        registry.register(
            "suppressed",
            "Episodes that did not begin because they flap, in the partitions at hand",
            self.suppressed.clone(),
        );
        registry.register("reloads", "Times that the rules were read again", self.reloads.clone());
        registry.register(
            "reload_errors",
            "Times that the rules file was found to be wrong; those in force stay",
            self.reload_errors.clone(),
        );
    }

    fn register_transactions(&self, registry: &mut Registry) {
        registry.register("transactions", "Transactions that are committed", self.transactions.clone());
        registry.register("transaction_records", "Records in them", self.transaction_records.clone());
        registry.register(
            "transaction_failures",
            "Transactions that failed, by kind; they are made again",
            self.transaction_failures.clone(),
        );
        registry.register_with_unit(
            "transaction",
            "Time from the beginning of a transaction to its end",
            Unit::Seconds,
            self.transaction_seconds.0.clone(),
        );
        registry.register("checkpoints", "Partitions whose states were all saved", self.checkpoints.clone());
        registry.register("restores", "Partitions whose states were read", self.restores.clone());
        registry.register(
            "states_unreadable",
            "Saved states that could not be read; their devices began anew",
            self.states_unreadable.clone(),
        );
        registry.register("rebalances", "Rebalances of the group", self.rebalances.clone());
        registry.register("lag", "Records of a partition that no rule has seen", self.lag.clone());
    }
}
