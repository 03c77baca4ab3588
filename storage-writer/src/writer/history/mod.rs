//! Alerts become rows: what the alert stage has written to its topics is kept in ClickHouse for people to ask about.
//!
//! Beside the readings' writer, with a consumer group and a thread of its own; neither holds the other up. One batch at
//! a time is filled, one inserted; offsets are committed behind it, so a record is stored at least once. Which record a
//! row is, is said by its key, and whoever asks sees each once: `docs/adr/0011-alert-history.md`.
//!
//! Memory is bounded by two batches of 4 MiB, one poll beyond a full batch, and what librdkafka has fetched (8 MiB).

mod alert;
mod batch;
mod consume;
mod insert;
mod letters;
mod partitions;

use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{Consumer, ConsumerSettings, Outbox, TransactionSettings};
use penstock_proto::topics::{DEVICE_ALERTS, LOW_BATTERY, STORAGE_FAILURES};
use penstock_service::Config;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::WriterError;
use super::floors::Group;
use super::letters::TRANSACTION_TIMEOUT;
use super::start::client_settings;
use crate::clickhouse::Client;
use crate::insert::Inserter;
use crate::metrics::Metrics;
pub(super) use consume::History;
use consume::Parts;
use insert::Table;
use letters::Post;

/// What librdkafka may hold of alerts that nobody has asked for yet.
const FETCH_BYTES_MAX: usize = 8 << 20;

/// Joins the group. `abort` ends what is under way, `run_id` is this process's alone.
pub(super) fn history(
    config: &Config,
    client: Client,
    metrics: Metrics,
    run_id: &str,
    abort: &CancellationToken,
) -> Result<History, WriterError> {
    let writer = &config.writer;
    let name = |name: &str| -> Arc<str> { format!("{}{name}", config.kafka.topic_prefix).into() };
    let (topics, letters_topic) = ([name(DEVICE_ALERTS), name(LOW_BATTERY)], name(STORAGE_FAILURES));
    let group = format!("{}-alerts", writer.group);
    let client_settings = client_settings(config);
    let settings = ConsumerSettings {
        group: group.clone(),
        topics: topics.iter().map(ToString::to_string).collect(),
        fetch_bytes_max: FETCH_BYTES_MAX,
        session_timeout_ms: writer.session_timeout_ms,
        instance_id: None,
        // Alerts are written in transactions: one that was aborted was never raised.
        read_committed: true,
    };
    let consumer = Consumer::subscribe(&client_settings, &settings)?;
    let backoff_ms = (writer.backoff_min_ms, writer.backoff_max_ms);
    let inserter = Inserter::with_client(client, &config.clickhouse);
    let database = &config.clickhouse.database;
    let table = Table::new(inserter, database, metrics.clone(), backoff_ms, run_id, abort.clone());
    let transactions = TransactionSettings {
        transactional_id: format!("{group}-{run_id}"),
        timeout: TRANSACTION_TIMEOUT,
        ..TransactionSettings::default()
    };
    let outbox = Outbox::new(client_settings.clone(), transactions, abort.clone());
    let groups = topics.each_ref().map(|topic| {
        Arc::new(Group {
            client: client_settings.clone(),
            name: group.clone(),
            topic: Arc::clone(topic),
            letters_topic: Arc::clone(&letters_topic),
        })
    });
    let post = Post::new(letters_topic, outbox, metrics.clone(), table.backoff());
    let parts = Parts {
        consumer,
        groups,
        table: Arc::new(table),
        post,
        metrics,
        runtime: Handle::current(),
        abort: abort.clone(),
        drain_timeout: Duration::from_millis(writer.drain_timeout_ms),
    };
    Ok(History::new(parts))
}
