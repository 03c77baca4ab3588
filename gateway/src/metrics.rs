//! What the gateway counts.

use std::time::{SystemTime, UNIX_EPOCH};

use penstock_kafka::DeliveryError;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::outcome::Outcome;
use crate::window::Ack;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    error: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Counters of the gateway; one set for each process.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) accepted: Counter,
    pub(crate) connections: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) accept_errors: Counter,
    pub(crate) tls_reloads: Counter,
    pub(crate) tls_reload_errors: Counter,
    pub(crate) delivered_unheard: Counter,
    ended: Family<OutcomeLabel, Counter>,
    publishes: [Counter; 3],
    acks: Counter,
    refusals: Family<ReasonLabel, Counter>,
    delivery_failures: Family<ErrorLabel, Counter>,
    puback_seconds: Histogram,
}

impl Metrics {
    /// Creates the counters and registers them as `penstock_gateway_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            accepted: Counter::default(),
            connections: Gauge::default(),
            sessions: Gauge::default(),
            accept_errors: Counter::default(),
            tls_reloads: Counter::default(),
            tls_reload_errors: Counter::default(),
            delivered_unheard: Counter::default(),
            ended: Family::default(),
            publishes: Default::default(),
            acks: Counter::default(),
            refusals: Family::default(),
            delivery_failures: Family::default(),
            // 0.5 ms to 65 s
            puback_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 18)),
        };
        metrics.register_connections(registry);
        metrics.register_publishes(registry);
        metrics
    }

    fn register_connections(&self, registry: &mut Registry) {
        let accepted = self.accepted.clone();
        registry.register("penstock_gateway_connections_accepted", "TCP connections accepted", accepted);
        let connections = self.connections.clone();
        registry.register(
            "penstock_gateway_connections",
            "TCP connections open, handshakes included",
            connections,
        );
        registry.register(
            "penstock_gateway_sessions",
            "MQTT connections past CONNECT",
            self.sessions.clone(),
        );
        let ended = self.ended.clone();
        registry.register("penstock_gateway_connections_ended", "Connections that ended, by outcome", ended);
        let errors = self.accept_errors.clone();
        registry.register("penstock_gateway_accept_errors", "Failures to accept a connection", errors);
        let reloads = self.tls_reloads.clone();
        registry.register("penstock_gateway_tls_reloads", "Certificates reloaded", reloads);
        let errors = self.tls_reload_errors.clone();
        registry.register(
            "penstock_gateway_tls_reload_errors",
            "Certificates that could not be reloaded",
            errors,
        );
    }

    fn register_publishes(&self, registry: &mut Registry) {
        for (qos, counter) in self.publishes.iter().enumerate() {
            registry.register(
                format!("penstock_gateway_publishes_qos{qos}"),
                format!("Publishes of QoS {qos} handed to the bridge"),
                counter.clone(),
            );
        }
        let acks = self.acks.clone();
        registry.register("penstock_gateway_acks", "PUBACK and PUBREC sent after Kafka confirmed", acks);
        let refusals = self.refusals.clone();
        registry.register("penstock_gateway_refusals", "Acks with an error reason, by reason", refusals);
        let failures = self.delivery_failures.clone();
        registry.register(
            "penstock_gateway_delivery_failures",
            "Publishes that Kafka did not confirm and that were therefore not acknowledged, by error",
            failures,
        );
        let unheard = self.delivered_unheard.clone();
        registry.register(
            "penstock_gateway_delivered_unheard",
            "Publishes confirmed by Kafka after their device had gone, so that no ack could be sent",
            unheard,
        );
        registry.register(
            "penstock_gateway_puback_seconds",
            "Time from receiving a publish to its PUBACK or PUBREC",
            self.puback_seconds.clone(),
        );
    }

    pub(crate) fn count_end(&self, outcome: Outcome) {
        self.ended.get_or_create(&OutcomeLabel { outcome: outcome.name() }).inc();
    }

    pub(crate) fn count_publish(&self, ack: Ack) {
        let qos = match ack {
            Ack::None => 0,
            Ack::PubAck(..) => 1,
            Ack::PubRec(..) => 2,
        };
        self.publishes[qos].inc();
    }

    pub(crate) fn count_ack(&self, ack: Ack, received_at_ms: i64) {
        let (Ack::PubAck(_, reason) | Ack::PubRec(_, reason)) = ack else { return };
        self.acks.inc();
        if reason.is_error() {
            self.refusals.get_or_create(&ReasonLabel { reason: reason.name() }).inc();
        }
        self.puback_seconds.observe(seconds_since(received_at_ms));
    }

    pub(crate) fn count_delivery_failure(&self, error: &DeliveryError) {
        self.delivery_failures.get_or_create(&ErrorLabel { error: error.kind() }).inc();
    }
}

fn seconds_since(received_at_ms: i64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let received_at = u64::try_from(received_at_ms).unwrap_or_default();
    (now.as_secs_f64() - std::time::Duration::from_millis(received_at).as_secs_f64()).max(0.0)
}
