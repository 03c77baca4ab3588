//! The role: readings from Kafka become rows in ClickHouse, at least once.
//!
//! A thread of its own polls Kafka and fills batches; tasks insert them; offsets are committed only up to the first
//! batch that is not stored. A row that is inserted twice has the same key and becomes one. Memory is bounded by
//! `(inserts_inflight_max + 2) * batch_bytes_max + 2 * fetch_bytes_max`: batches under way, the one being filled and
//! the room its buffers grow into; what librdkafka has fetched, and one poll beyond a full batch.

mod condition;
mod consume;
mod failures;
mod health;
mod pipe;
mod start;
mod store;

use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{Consumer, ConsumerSettings, KafkaError, ProvisionError};
use penstock_proto::topics::{READINGS, STORAGE_FAILURES};
use penstock_service::Config;
use penstock_service::admin::Readiness;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::batch::Limits;
use crate::clickhouse::{Client, ClientError};
use crate::insert::Inserter;
use crate::metrics::Metrics;
use crate::migrations::MigrateError;
use condition::Condition;
use consume::Consume;
use failures::Failures;
use health::KafkaHealth;
use pipe::Pipe;
use start::{Latches, client_settings};
use store::Store;

/// While another insert is under way a batch may hold this many times `batch_rows_max`.
const GROWTH: usize = 10;

/// Why the writer ended.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// `[clickhouse]` allows no connection.
    #[error(transparent)]
    ClickHouse(#[from] ClientError),
    /// The schema cannot be brought up to date.
    #[error(transparent)]
    Schema(#[from] MigrateError),
    /// The topics are not as they must be.
    #[error(transparent)]
    Topics(#[from] ProvisionError),
    /// The consumer cannot go on.
    #[error("the writer cannot go on reading: {0}")]
    Kafka(KafkaError),
    /// A batch was given up, which happens only if its task panicked.
    #[error("an insert ended without a result; this is a bug, see the log before it")]
    Stopped,
    /// The consumer's thread cannot be started, or ended without a result.
    #[error("the writer's thread ended: {0}")]
    Thread(String),
}

/// Runs the writer until `shutdown` is cancelled; then it stores what it has read, commits and leaves the group
/// within `writer.drain_timeout_ms`.
///
/// Waits for a Kafka or ClickHouse that is not there. Readiness gets the latches `kafka`, `clickhouse` and `schema`
/// at once, before the future is polled.
///
/// # Errors
/// [`WriterError`] where waiting cannot help: a wrong password, a topic with another number of partitions, a schema
/// that was tampered with, a consumer that was fenced off.
pub fn run(
    config: &Config,
    metrics: Metrics,
    readiness: &Readiness,
    shutdown: CancellationToken,
) -> impl Future<Output = Result<(), WriterError>> + Send + use<> {
    let latches = Latches::new(readiness);
    run_with(config.clone(), metrics, latches, shutdown)
}

async fn run_with(
    config: Config,
    metrics: Metrics,
    latches: Latches,
    shutdown: CancellationToken,
) -> Result<(), WriterError> {
    let client = Client::new(&config.clickhouse)?;
    let ready = tokio::try_join!(
        start::topics(&config, &shutdown),
        start::schema(&client, &config, &latches, &shutdown),
    )?;
    if ready != (true, true) {
        return Ok(());
    }
    metrics.clickhouse_up(true);
    // Ends the thread and the inserts when this future is dropped.
    let stop = shutdown.child_token();
    let abort = CancellationToken::new();
    let _guards = (stop.clone().drop_guard(), abort.clone().drop_guard());
    let Latches { kafka, clickhouse, .. } = latches;
    let health = KafkaHealth::new(kafka);
    let store = store(&config, client, clickhouse, metrics.clone(), abort);
    let consume = consume(&config, store, health, metrics)?;
    tracing::info!(group = config.writer.group, "writer is ready");
    on_thread(move || consume.run(&stop)).await
}

/// Runs `work` on a thread of its own: polling Kafka blocks.
async fn on_thread(
    work: impl FnOnce() -> Result<(), WriterError> + Send + 'static,
) -> Result<(), WriterError> {
    let (ended_in, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("penstock-writer".to_owned())
        .spawn(move || {
            // Nobody is left to hear it if the future was dropped.
            let _ = ended_in.send(work());
        })
        .map_err(|error| WriterError::Thread(error.to_string()))?;
    ended.await.unwrap_or_else(|_| Err(WriterError::Thread("it panicked".to_owned())))
}

fn store(
    config: &Config,
    client: Client,
    clickhouse: penstock_service::admin::Latch,
    metrics: Metrics,
    abort: CancellationToken,
) -> Arc<Store> {
    let prefix = &config.kafka.topic_prefix;
    let failures = Failures::new(
        client_settings(config),
        format!("{prefix}{STORAGE_FAILURES}"),
        format!("{prefix}{READINGS}"),
    );
    Arc::new(Store {
        inserter: Inserter::with_client(client, &config.clickhouse),
        failures,
        metrics,
        clickhouse,
        condition: Condition::new("inserting into ClickHouse"),
        backoff_ms: (config.writer.backoff_min_ms, config.writer.backoff_max_ms),
        run_id: uuid::Uuid::new_v4().simple().to_string(),
        abort,
    })
}

fn consume(
    config: &Config,
    store: Arc<Store>,
    health: KafkaHealth,
    metrics: Metrics,
) -> Result<Consume, WriterError> {
    let writer = &config.writer;
    let topic: Arc<str> = format!("{}{READINGS}", config.kafka.topic_prefix).into();
    let settings = ConsumerSettings {
        group: writer.group.clone(),
        topics: vec![topic.to_string()],
        fetch_bytes_max: writer.fetch_bytes_max,
        session_timeout_ms: writer.session_timeout_ms,
        instance_id: None,
        read_committed: false,
    };
    let consumer = Consumer::subscribe(&client_settings(config), &settings)?;
    let limits = Limits {
        rows_max: writer.batch_rows_max,
        rows_grown_max: writer.batch_rows_max.saturating_mul(GROWTH),
        bytes_max: writer.batch_bytes_max,
        age_max: Duration::from_millis(writer.batch_age_ms_max),
    };
    let pipe = Pipe::new(limits, writer.inserts_inflight_max, store, metrics.clone(), Handle::current());
    Ok(Consume::new(consumer, topic, pipe, health, metrics, writer))
}
