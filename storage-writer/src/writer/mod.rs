//! The role: readings from Kafka become rows in ClickHouse, each record once; and so do alerts, see `history`.
//!
//! A thread of its own polls Kafka and fills batches; tasks insert them; offsets are committed only up to the first
//! batch that is not stored. A partition is claimed before its first record is read, and what of it is stored is asked
//! for; `docs/GUARANTEES.md` has the protocol. Memory is bounded by
//! `(inserts_inflight_max + 2) * batch_bytes_max + 2 * fetch_bytes_max`: batches under way, the one being filled and
//! the room its buffers grow into; what librdkafka has fetched, and one poll beyond a full batch.

mod assignment;
mod consume;
mod durability;
mod floors;
mod gate;
mod history;
mod letters;
mod opening;
mod pipe;
mod posting;
mod pressure;
mod refetch;
mod rollup;
mod start;
mod store;

use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{Consumer, ConsumerSettings, KafkaError, Outbox, ProvisionError, TransactionSettings};
use penstock_proto::topics::{READINGS, STORAGE_FAILURES};
use penstock_service::admin::Readiness;
use penstock_service::condition::Condition;
use penstock_service::config::StorageGuarantee;
use penstock_service::health::Health;
use penstock_service::{Config, thread};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::batch::Limits;
use crate::claims::Claims;
use crate::clickhouse::{Client, ClientError};
use crate::fence::Fence;
use crate::insert::Inserter;
use crate::metrics::Metrics;
use crate::migrations::MigrateError;
use crate::rollups::Rollups;
use assignment::Assignment;
use consume::{Consume, Covered, Parts};
use floors::Group;
use gate::Gate;
use letters::{Letters, TRANSACTION_TIMEOUT};
use pipe::{Pipe, Source};
use posting::Posting;
use pressure::Stretch;
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
    /// ClickHouse does not give the durability that is asked for, or does not say which it gives.
    #[error("cannot set the durability of inserts: {0}; see clickhouse.fsync_after_insert")]
    Durability(Box<crate::clickhouse::CallError>),
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
    if ready != (Some(()), Some(())) {
        return Ok(());
    }
    let Some(level) = start::durability(&client, &config, &shutdown).await? else { return Ok(()) };
    metrics.clickhouse_up(true);
    metrics.durability(level.name());
    // Ends the thread and the inserts when this future is dropped.
    let stop = shutdown.child_token();
    let abort = CancellationToken::new();
    let _guards = (stop.clone().drop_guard(), abort.clone().drop_guard());
    let Latches { kafka, clickhouse, .. } = latches;
    let health = Health::new(kafka, "reading from Kafka");
    let store = store(&config, client.clone(), clickhouse, metrics.clone(), abort.clone());
    let (covered, stretch) = (Covered::default(), Stretch::default());
    let shared = Shared { covered: covered.clone(), stretch: stretch.clone() };
    let consume = consume(&config, Arc::clone(&store), health, metrics.clone(), shared)?;
    let history = history::history(&config, client.clone(), metrics.clone(), &store.run_id, &abort)?;
    beside(&config, client, store, metrics, covered, stretch, &abort);
    tracing::info!(group = config.writer.group, "writer is ready");
    let history_stop = stop.clone();
    let readings = on_thread("penstock-writer", move || consume.run(&stop));
    let alerts = on_thread("penstock-history", move || history.run(&history_stop));
    tokio::try_join!(readings, alerts).map(|_| ())
}

/// What the consumer's thread shares with the tasks beside it.
struct Shared {
    covered: Covered,
    stretch: Stretch,
}

/// Starts what goes on beside storing, until `abort`.
fn beside(
    config: &Config,
    client: Client,
    store: Arc<Store>,
    metrics: Metrics,
    covered: Covered,
    stretch: Stretch,
    abort: &CancellationToken,
) {
    let database = config.clickhouse.database.clone();
    let soft_max = config.writer.parts_soft_max;
    tokio::spawn(pressure::watch(client.clone(), database, soft_max, stretch, metrics, abort.clone()));
    if config.writer.rollups {
        let rollups = Rollups::new(client, &config.clickhouse);
        let every = Duration::from_millis(config.writer.rollup_every_ms);
        tokio::spawn(rollup::keep(store, rollups, covered, every, abort.clone()));
    }
}

/// Runs `work` on a thread of its own: polling Kafka blocks.
async fn on_thread(
    name: &str,
    work: impl FnOnce() -> Result<(), WriterError> + Send + 'static,
) -> Result<(), WriterError> {
    let ended = thread::run(name, work).await;
    ended.unwrap_or_else(|error| Err(WriterError::Thread(error.to_string())))
}

fn store(
    config: &Config,
    client: Client,
    clickhouse: penstock_service::admin::Latch,
    metrics: Metrics,
    abort: CancellationToken,
) -> Arc<Store> {
    let run_id = uuid::Uuid::new_v4().simple().to_string();
    let owner = format!("{} {} pid {}", config.writer.group, run_id, std::process::id());
    let exactly_once = config.writer.guarantee == StorageGuarantee::ExactlyOnce;
    let backoff_ms = (config.writer.backoff_min_ms, config.writer.backoff_max_ms);
    Arc::new(Store {
        inserter: Inserter::with_client(client.clone(), &config.clickhouse),
        fence: exactly_once.then(|| Fence::new(client.clone(), &config.clickhouse, owner)),
        client,
        database: config.clickhouse.database.clone(),
        claims: Claims::default(),
        gate: Gate::new(backoff_ms.0, backoff_ms.1),
        metrics,
        clickhouse,
        condition: Condition::new("inserting into ClickHouse"),
        backoff_ms,
        run_id,
        abort,
    })
}

fn consume(
    config: &Config,
    store: Arc<Store>,
    health: Health,
    metrics: Metrics,
    shared: Shared,
) -> Result<Consume, WriterError> {
    let writer = &config.writer;
    let prefix = &config.kafka.topic_prefix;
    let topic: Arc<str> = format!("{prefix}{READINGS}").into();
    let client = client_settings(config);
    let settings = ConsumerSettings {
        group: writer.group.clone(),
        topics: vec![topic.to_string()],
        fetch_bytes_max: writer.fetch_bytes_max,
        session_timeout_ms: writer.session_timeout_ms,
        instance_id: None,
        // Also: a committed offset is known only when no transaction is open that may change it.
        read_committed: true,
    };
    let consumer = Consumer::subscribe(&client, &settings)?;
    let limits = Limits {
        rows_max: writer.batch_rows_max,
        rows_grown_max: writer.batch_rows_max.saturating_mul(GROWTH),
        bytes_max: writer.batch_bytes_max,
        age_max: Duration::from_millis(writer.batch_age_ms_max),
    };
    let letters_topic: Arc<str> = format!("{prefix}{STORAGE_FAILURES}").into();
    let letters = Letters { topic: Arc::clone(&letters_topic), source_topic: Arc::clone(&topic) };
    let transactions = TransactionSettings {
        transactional_id: format!("{}-{}", writer.group, store.run_id),
        timeout: TRANSACTION_TIMEOUT,
        ..TransactionSettings::default()
    };
    let outbox = Outbox::new(client.clone(), transactions, store.abort.clone());
    let posting = Posting::new(letters, outbox, metrics.clone(), store.backoff());
    let source = Source { client, topic: Arc::clone(&topic) };
    let runtime = Handle::current();
    let inserts_max = writer.inserts_inflight_max;
    let Shared { covered, stretch } = shared;
    let pipe = Pipe::new(limits, inserts_max, Arc::clone(&store), source, runtime.clone(), stretch);
    let group = Arc::new(Group {
        client: client_settings(config),
        name: writer.group.clone(),
        topic: Arc::clone(&topic),
        letters_topic,
    });
    let assignment = Assignment::new(Arc::clone(&store), group, runtime, Arc::clone(&topic));
    let parts = Parts { consumer, topic, pipe, assignment, posting, health, metrics, covered, store };
    Ok(Consume::new(parts, writer))
}
