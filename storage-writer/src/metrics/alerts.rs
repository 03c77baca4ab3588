//! What storing alerts counts: `penstock_writer_alerts_*`.

use penstock_kafka::TopicPartition;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::FailureLabels;
use crate::clickhouse::CallError;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    topic: String,
    partition: i32,
}

/// Counts of the history of alerts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alerts {
    rows: Counter,
    batches: Counter,
    insert_failures: Family<FailureLabels, Counter>,
    lag: Family<PartitionLabels, Gauge>,
    paused: Gauge,
}

impl Alerts {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("alerts");
        registry.register(
            "rows",
            "Alerts stored in ClickHouse; one that is read again is stored and counted again",
            self.rows.clone(),
        );
        registry.register("batches", "Blocks of alerts stored in ClickHouse", self.batches.clone());
        registry.register(
            "insert_failures",
            "Attempts to insert alerts that failed, by class and ClickHouse's name of the error",
            self.insert_failures.clone(),
        );
        registry.register(
            "partition_lag_records",
            "Records of a partition of an alert topic that are not stored yet",
            self.lag.clone(),
        );
        registry.register(
            "paused",
            "1 while alerts are not read because they cannot be stored",
            self.paused.clone(),
        );
    }

    /// A block was stored.
    pub(crate) fn stored(&self, rows: usize) {
        self.rows.inc_by(rows as u64);
        self.batches.inc();
    }

    /// An attempt to insert failed.
    pub(crate) fn insert_failed(&self, error: &CallError) {
        let labels = FailureLabels { class: error.class().name(), kind: error.kind() };
        self.insert_failures.get_or_create(&labels).inc();
    }

    /// Records of a partition that are not stored yet.
    pub(crate) fn lag(&self, partition: &TopicPartition, records: i64) {
        self.lag.get_or_create(&labels(partition)).set(records);
    }

    /// A partition is not this writer's any more.
    pub(crate) fn lag_gone(&self, partition: &TopicPartition) {
        self.lag.remove(&labels(partition));
    }

    /// Whether reading is paused.
    pub(crate) fn paused(&self, paused: bool) {
        self.paused.set(i64::from(paused));
    }
}

fn labels(partition: &TopicPartition) -> PartitionLabels {
    PartitionLabels { topic: partition.topic.to_string(), partition: partition.partition }
}
