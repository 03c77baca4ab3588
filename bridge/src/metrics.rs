//! What the bridge counts.

use penstock_proto::Reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The label set of dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Counters of the bridge; one set for each process.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) readings: Counter,
    pub(crate) queue_full: Counter,
    dead_letters: Family<ReasonLabel, Counter>,
}

impl Metrics {
    /// Creates the counters and registers them as `penstock_bridge_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "penstock_bridge_readings",
            "Valid readings handed to the Kafka producer",
            metrics.readings.clone(),
        );
        registry.register(
            "penstock_bridge_dead_letters",
            "Payloads handed to the producer for the dead-letter topic, by reason",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "penstock_bridge_queue_full",
            "Publications that had to wait because the producer's queue had no room",
            metrics.queue_full.clone(),
        );
        metrics
    }

    pub(crate) fn count_dead_letter(&self, reason: Reason) {
        self.dead_letters.get_or_create(&ReasonLabel { reason: reason.name() }).inc();
    }
}
