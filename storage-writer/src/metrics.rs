//! What the writer counts: `penstock_writer_*`.

mod alerts;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use penstock_proto::Reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::breaker::State;
use crate::clickhouse::CallError;
pub(crate) use alerts::Alerts;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    class: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    partition: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RebalanceLabels {
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

/// The writer's metrics. Clones share the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rows: Counter,
    batches: Counter,
    bytes: Counter,
    insert_seconds: Histogram,
    insert_failures: Family<FailureLabels, Counter>,
    insert_retries: Counter,
    storage_failures: Family<ReasonLabels, Counter>,
    storage_failure_retries: Counter,
    records_skipped: Counter,
    commits: Counter,
    commit_failures: Counter,
    rebalances: Family<RebalanceLabels, Counter>,
    lag: Family<PartitionLabels, Gauge>,
    paused: Gauge,
    buffered_bytes: Gauge<i64>,
    clickhouse_up: Gauge,
    guard: Guarded,
    alerts: Alerts,
    /// What was counted of the consumer's own counts already.
    commits_seen: AtomicU64,
}

/// What exactly-once storage counts.
#[derive(Debug)]
struct Guarded {
    fenced: Counter,
    found_stored: Counter,
    closed: Counter,
    takeovers: Counter,
    inserts_killed: Counter,
    takeover_seconds: Histogram,
    circuit: Family<StateLabels, Gauge>,
    circuit_opened: Counter,
    durability: Family<LevelLabels, Gauge>,
    parts: Gauge,
    stretch: Gauge<f64, std::sync::atomic::AtomicU64>,
    rollup_windows: Counter,
    rollup_failures: Counter,
    rollup_seconds: Histogram,
}

impl Default for Guarded {
    fn default() -> Self {
        let seconds = || Histogram::new((0..16).map(|power| 0.001 * f64::from(1u32 << power)));
        Self {
            fenced: Counter::default(),
            found_stored: Counter::default(),
            closed: Counter::default(),
            takeovers: Counter::default(),
            inserts_killed: Counter::default(),
            takeover_seconds: seconds(),
            circuit: Family::default(),
            circuit_opened: Counter::default(),
            durability: Family::default(),
            parts: Gauge::default(),
            stretch: Gauge::default(),
            rollup_windows: Counter::default(),
            rollup_failures: Counter::default(),
            rollup_seconds: seconds(),
        }
    }
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        // 1 ms to 33 s.
        let seconds = (0..16).map(|power| 0.001 * f64::from(1u32 << power));
        let inner = Inner {
            rows: Counter::default(),
            batches: Counter::default(),
            bytes: Counter::default(),
            insert_seconds: Histogram::new(seconds),
            insert_failures: Family::default(),
            insert_retries: Counter::default(),
            storage_failures: Family::default(),
            storage_failure_retries: Counter::default(),
            records_skipped: Counter::default(),
            commits: Counter::default(),
            commit_failures: Counter::default(),
            rebalances: Family::default(),
            lag: Family::default(),
            paused: Gauge::default(),
            buffered_bytes: Gauge::default(),
            clickhouse_up: Gauge::default(),
            guard: Guarded::default(),
            alerts: Alerts::default(),
            commits_seen: AtomicU64::new(0),
        };
        let registry = registry.sub_registry_with_prefix("penstock_writer");
        inner.register_storage(registry);
        inner.register_consumer(registry);
        inner.guard.register(registry);
        inner.alerts.register(registry);
        Self(Arc::new(inner))
    }

    /// What storing alerts counts.
    pub(crate) fn alerts(&self) -> &Alerts {
        &self.0.alerts
    }

    /// A block was stored.
    pub(crate) fn stored(&self, rows: usize, bytes: usize) {
        self.0.rows.inc_by(rows as u64);
        self.0.bytes.inc_by(bytes as u64);
        self.0.batches.inc();
    }

    /// An attempt to insert has ended, well or not.
    pub(crate) fn insert_took(&self, seconds: f64) {
        self.0.insert_seconds.observe(seconds);
    }

    /// An attempt to insert failed.
    pub(crate) fn insert_failed(&self, error: &CallError) {
        let labels = FailureLabels { class: error.class().name(), kind: error.kind() };
        self.0.insert_failures.get_or_create(&labels).inc();
    }

    /// An insert is tried again.
    pub(crate) fn insert_retried(&self) {
        self.0.insert_retries.inc();
    }

    /// A record is in the storage-failures topic.
    pub(crate) fn storage_failure(&self, reason: Reason) {
        self.0.storage_failures.get_or_create(&ReasonLabels { reason: reason.name() }).inc();
    }

    /// A transaction with records for the storage-failures topic is tried again.
    pub(crate) fn storage_failures_retried(&self) {
        self.0.storage_failure_retries.inc();
    }

    /// An insert met a greater claim.
    pub(crate) fn insert_fenced(&self) {
        self.0.guard.fenced.inc();
    }

    /// A partition was given up to be taken over anew.
    pub(crate) fn closed(&self) {
        self.0.guard.closed.inc();
    }

    /// Rows of an insert that did not end well were found stored.
    pub(crate) fn found_stored(&self, rows: usize) {
        self.0.guard.found_stored.inc_by(rows as u64);
    }

    /// Partitions were claimed, and inserts killed for it.
    pub(crate) fn taken_over(&self, killed: usize) {
        self.0.guard.takeovers.inc();
        self.0.guard.inserts_killed.inc_by(killed as u64);
    }

    /// Partitions were claimed and it was asked what is stored of them.
    pub(crate) fn takeover_took(&self, seconds: f64) {
        self.0.guard.takeover_seconds.observe(seconds);
    }

    /// What the circuit breaker lets through.
    pub(crate) fn circuit(&self, state: State) {
        for other in State::ALL {
            let labels = StateLabels { state: other.name() };
            self.0.guard.circuit.get_or_create(&labels).set(i64::from(other == state));
        }
    }

    /// The circuit breaker changed its state.
    pub(crate) fn circuit_opened(&self, opened: bool) {
        self.0.guard.circuit_opened.inc_by(u64::from(opened));
    }

    /// Where the rows are when an insert is done.
    pub(crate) fn durability(&self, level: &'static str) {
        self.0.guard.durability.clear();
        self.0.guard.durability.get_or_create(&LevelLabels { level }).set(1);
    }

    /// Active parts of the fullest monthly partition, and how much longer batches grow for it.
    pub(crate) fn parts(&self, parts: u64, stretch: f64) {
        self.0.guard.parts.set(i64::try_from(parts).unwrap_or(i64::MAX));
        self.0.guard.stretch.set(stretch);
    }

    /// Windows of the rollups were computed.
    pub(crate) fn rolled_up(&self, windows: u64, seconds: f64) {
        self.0.guard.rollup_windows.inc_by(windows);
        self.0.guard.rollup_seconds.observe(seconds);
    }

    /// The rollups could not be brought up to date.
    pub(crate) fn rollup_failed(&self) {
        self.0.guard.rollup_failures.inc();
    }

    /// Records came that were read before, or whose partition is not this writer's.
    pub(crate) fn skipped(&self, records: u64) {
        self.0.records_skipped.inc_by(records);
    }

    /// What the consumer has counted so far.
    pub(crate) fn commits(&self, done: u64, failed: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        let seen = self.0.commits_seen.swap(done, Relaxed);
        self.0.commits.inc_by(done.saturating_sub(seen));
        let seen = self.0.commit_failures.get();
        self.0.commit_failures.inc_by(failed.saturating_sub(seen));
    }

    /// Partitions came or went.
    pub(crate) fn rebalanced(&self, event: &'static str) {
        self.0.rebalances.get_or_create(&RebalanceLabels { event }).inc();
    }

    /// Records of a partition that are not stored yet.
    pub(crate) fn lag(&self, partition: i32, records: i64) {
        self.0.lag.get_or_create(&PartitionLabels { partition }).set(records);
    }

    /// A partition is not this writer's any more.
    pub(crate) fn lag_gone(&self, partition: i32) {
        self.0.lag.remove(&PartitionLabels { partition });
    }

    /// Whether partitions are paused: inserts are behind, or it is not known yet what is stored.
    pub(crate) fn paused(&self, paused: bool) {
        self.0.paused.set(i64::from(paused));
    }

    /// Bytes of rows that are not stored yet.
    pub(crate) fn buffered_bytes(&self, bytes: usize) {
        self.0.buffered_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Whether ClickHouse took the last insert.
    pub(crate) fn clickhouse_up(&self, up: bool) {
        self.0.clickhouse_up.set(i64::from(up));
    }

    /// Rows stored so far.
    pub fn rows(&self) -> u64 {
        self.0.rows.get()
    }

    /// Blocks stored so far.
    pub fn batches(&self) -> u64 {
        self.0.batches.get()
    }

    /// Bytes of rows that are not stored yet, now.
    pub fn buffered_bytes_now(&self) -> i64 {
        self.0.buffered_bytes.get()
    }

    /// Whether partitions are paused now.
    pub fn is_paused(&self) -> bool {
        self.0.paused.get() != 0
    }
}

impl Guarded {
    fn register(&self, registry: &mut Registry) {
        registry.register("inserts_fenced", "Inserts that met a greater claim", self.fenced.clone());
        registry.register(
            "rows_found_stored",
            "Rows of inserts that did not end well that were found stored",
            self.found_stored.clone(),
        );
        registry.register(
            "partitions_reopened",
            "Partitions given up and taken over anew: an insert of unknown outcome, or a claim of another writer",
            self.closed.clone(),
        );
        registry.register("takeovers", "Times partitions were claimed", self.takeovers.clone());
        registry.register("inserts_killed", "Inserts killed by takeovers", self.inserts_killed.clone());
        registry.register_with_unit(
            "takeover",
            "How long it took to claim assigned partitions and to ask what is stored of them",
            Unit::Seconds,
            self.takeover_seconds.clone(),
        );
        registry.register(
            "circuit_state",
            "1 for the state of the circuit breaker before ClickHouse: closed, half_open, open",
            self.circuit.clone(),
        );
        registry.register("circuit_opened", "Times the circuit breaker opened", self.circuit_opened.clone());
        registry.register(
            "durability",
            "1 for where rows are when an insert is done: page-cache, fsync, or quorum",
            self.durability.clone(),
        );
        registry.register(
            "clickhouse_parts",
            "Active parts in the fullest monthly partition of readings",
            self.parts.clone(),
        );
        registry.register(
            "batch_stretch_ratio",
            "How many times larger and older batches grow because there are many parts",
            self.stretch.clone(),
        );
        registry.register("rollup_windows", "Windows of the rollups computed", self.rollup_windows.clone());
        registry.register(
            "rollup_failures",
            "Times the rollups could not be brought up to date",
            self.rollup_failures.clone(),
        );
        registry.register_with_unit(
            "rollup",
            "How long it took to bring the rollups up to date",
            Unit::Seconds,
            self.rollup_seconds.clone(),
        );
    }
}

impl Inner {
    fn register_storage(&self, registry: &mut Registry) {
        registry.register("rows", "Rows stored in ClickHouse", self.rows.clone());
        registry.register("batches", "Blocks stored in ClickHouse", self.batches.clone());
        registry.register_with_unit(
            "insert",
            "Size of blocks stored in ClickHouse",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register_with_unit(
            "insert_attempt",
            "How long attempts to insert took, failed ones included",
            Unit::Seconds,
            self.insert_seconds.clone(),
        );
        registry.register(
            "insert_failures",
            "Attempts to insert that failed, by class (transient, permanent, unknown) and ClickHouse's name of the error",
            self.insert_failures.clone(),
        );
        registry.register("insert_retries", "Inserts that were tried again", self.insert_retries.clone());
        registry.register(
            "storage_failures",
            "Records that could not become rows and are in the storage-failures topic, by reason",
            self.storage_failures.clone(),
        );
        registry.register(
            "storage_failure_retries",
            "Transactions with records for the storage-failures topic that were tried again",
            self.storage_failure_retries.clone(),
        );
        registry.register(
            "records_skipped",
            "Records that Kafka handed out twice in one assignment, or of a partition already given up",
            self.records_skipped.clone(),
        );
    }

    fn register_consumer(&self, registry: &mut Registry) {
        registry.register("commits", "Offset commits that Kafka confirmed", self.commits.clone());
        registry.register("commit_failures", "Offset commits that failed", self.commit_failures.clone());
        registry.register(
            "rebalances",
            "Partitions assigned, revoked or lost: events, not partitions",
            self.rebalances.clone(),
        );
        registry.register(
            "partition_lag_records",
            "Records of a partition that are not stored yet, by what the last fetch said",
            self.lag.clone(),
        );
        registry.register(
            "paused",
            "1 while partitions are paused: inserts are behind, or it is not known yet what is stored",
            self.paused.clone(),
        );
        registry.register_with_unit(
            "buffered",
            "Rows that are read and not stored yet",
            Unit::Bytes,
            self.buffered_bytes.clone(),
        );
        registry.register(
            "clickhouse_up",
            "1 if ClickHouse took the last insert",
            self.clickhouse_up.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_documented_ones() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.stored(10, 100);
        metrics.commits(3, 1);
        metrics.commits(5, 1);
        metrics.lag(7, 42);
        metrics.storage_failure(Reason::BadKey);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "penstock_writer_rows_total 10",
            "penstock_writer_batches_total 1",
            "penstock_writer_insert_bytes_total 100",
            "penstock_writer_insert_attempt_seconds_count 0",
            "penstock_writer_commits_total 5",
            "penstock_writer_commit_failures_total 1",
            "penstock_writer_partition_lag_records{partition=\"7\"} 42",
            "penstock_writer_storage_failures_total{reason=\"bad-key\"} 1",
            "penstock_writer_buffered_bytes 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
