//! What the role counts: `penstock_notify_*`, by receiver.

use std::sync::Arc;

use penstock_proto::Reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::notice::Receiver;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReceiverLabels {
    receiver: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    receiver: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    receiver: &'static str,
    reason: &'static str,
}

type Counters = Family<ReceiverLabels, Counter>;
type Gauges = Family<ReceiverLabels, Gauge>;

/// The role's metrics. Clones share the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    read: Counters,
    alerts: Family<OutcomeLabels, Counter>,
    requests: Family<OutcomeLabels, Counter>,
    request_seconds: Family<ReceiverLabels, Histogram, fn() -> Histogram>,
    letters: Family<ReasonLabels, Counter>,
    reminders: Counters,
    waiting: Gauges,
    waiting_bytes: Gauges,
    firing: Gauges,
    forgotten: Gauges,
    paused: Gauges,
    up: Gauges,
    lag: Gauges,
    commit_failures: Counters,
    silences: Gauge,
    acks: Gauge,
    controls_refused: Counter,
}

/// 1 ms to 33 s.
fn seconds() -> Histogram {
    Histogram::new((0..16).map(|power| 0.001 * f64::from(1u32 << power)))
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let inner = Inner {
            read: Family::default(),
            alerts: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            letters: Family::default(),
            reminders: Family::default(),
            waiting: Family::default(),
            waiting_bytes: Family::default(),
            firing: Family::default(),
            forgotten: Family::default(),
            paused: Family::default(),
            up: Family::default(),
            lag: Family::default(),
            commit_failures: Family::default(),
            silences: Gauge::default(),
            acks: Gauge::default(),
            controls_refused: Counter::default(),
        };
        inner.register(registry.sub_registry_with_prefix("penstock_notify"));
        Self(Arc::new(inner))
    }

    /// The numbers of one receiver.
    pub(crate) fn of(&self, receiver: Receiver) -> Counts {
        Counts { inner: Arc::clone(&self.0), receiver: receiver.name() }
    }

    /// What people have said.
    pub(crate) fn controls(&self, silences: usize, acks: usize) {
        self.0.silences.set(number(silences));
        self.0.acks.set(number(acks));
    }

    /// A silence or an acknowledgement was not understood.
    pub(crate) fn control_refused(&self) {
        self.0.controls_refused.inc();
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The numbers of one receiver.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    inner: Arc<Inner>,
    receiver: &'static str,
}

impl Counts {
    const fn labels(&self) -> ReceiverLabels {
        ReceiverLabels { receiver: self.receiver }
    }

    /// A record was read.
    pub(crate) fn read(&self) {
        self.inner.read.get_or_create(&self.labels()).inc();
    }

    /// What became of alerts.
    pub(crate) fn alerts(&self, outcome: &'static str, count: u64) {
        if count > 0 {
            let labels = OutcomeLabels { receiver: self.receiver, outcome };
            self.inner.alerts.get_or_create(&labels).inc_by(count);
        }
    }

    /// A request has ended.
    pub(crate) fn request(&self, outcome: &'static str, seconds: f64) {
        let labels = OutcomeLabels { receiver: self.receiver, outcome };
        self.inner.requests.get_or_create(&labels).inc();
        self.inner.request_seconds.get_or_create(&self.labels()).observe(seconds);
        self.inner
            .up
            .get_or_create(&self.labels())
            .set(i64::from(matches!(outcome, "delivered" | "refused")));
    }

    /// A record is in the topic of delivery failures.
    pub(crate) fn letter(&self, reason: Reason) {
        let labels = ReasonLabels { receiver: self.receiver, reason: reason.name() };
        self.inner.letters.get_or_create(&labels).inc();
    }

    /// The receiver was told again of so many alerts.
    pub(crate) fn reminded(&self, count: u64) {
        self.inner.reminders.get_or_create(&self.labels()).inc_by(count);
    }

    /// What waits, and their bytes.
    pub(crate) fn waiting(&self, (records, bytes): (usize, usize), paused: bool) {
        self.inner.waiting.get_or_create(&self.labels()).set(number(records));
        self.inner.waiting_bytes.get_or_create(&self.labels()).set(number(bytes));
        self.inner.paused.get_or_create(&self.labels()).set(i64::from(paused));
    }

    /// Alerts that fire, and those there was no room to remember.
    pub(crate) fn firing(&self, (firing, forgotten): (usize, u64)) {
        self.inner.firing.get_or_create(&self.labels()).set(number(firing));
        self.inner.forgotten.get_or_create(&self.labels()).set(i64::try_from(forgotten).unwrap_or(i64::MAX));
    }

    /// Records that are written and not dealt with.
    pub(crate) fn lag(&self, records: i64) {
        self.inner.lag.get_or_create(&self.labels()).set(records);
    }

    /// Commits failed.
    pub(crate) fn commits_failed(&self, count: u64) {
        self.inner.commit_failures.get_or_create(&self.labels()).inc_by(count);
    }
}

impl Inner {
    fn register(&self, to: &mut Registry) {
        to.register("alerts_read", "Records read from the alert topics", self.read.clone());
        to.register(
            "alerts",
            "What became of alerts: delivered, silenced, acknowledged, refused, given-up or malformed",
            self.alerts.clone(),
        );
        to.register("requests", "Requests by how they ended", self.requests.clone());
        to.register_with_unit(
            "request",
            "How long requests took",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        to.register("delivery_failures", "Records in the topic of delivery failures", self.letters.clone());
        to.register("reminders", "Firing alerts that the receiver was told again of", self.reminders.clone());
        to.register("waiting_alerts", "Alerts that were read and are not dealt with", self.waiting.clone());
        to.register_with_unit("waiting", "Their size", Unit::Bytes, self.waiting_bytes.clone());
        to.register("firing_alerts", "Alerts that fire and are remembered", self.firing.clone());
        to.register(
            "firing_alerts_forgotten",
            "Firing alerts that notify.active_bytes_max had no room for, since the start",
            self.forgotten.clone(),
        );
        to.register("paused", "Whether reading pauses because too much waits", self.paused.clone());
        to.register("receiver_up", "Whether the last request was answered as it should", self.up.clone());
        to.register("lag_records", "Records in the alert topics that are not dealt with", self.lag.clone());
        to.register(
            "commit_failures",
            "Commits that failed; they are made again",
            self.commit_failures.clone(),
        );
        to.register("silences", "Silences that hold", self.silences.clone());
        to.register("acknowledgements", "Acknowledgements there are", self.acks.clone());
        to.register(
            "controls_refused",
            "Silences and acknowledgements that were not understood",
            self.controls_refused.clone(),
        );
    }
}
