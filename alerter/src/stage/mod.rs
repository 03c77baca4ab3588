//! The role: readings from Kafka become alerts in Kafka, each exactly once (G4).
//!
//! A thread of its own polls Kafka and applies rules. Alerts, the states that raised them and the offsets up to which
//! they have seen readings go into one transaction; states of all other devices are saved from time to time.
//! `docs/adr/0010-alerts.md` has the reasons. Memory is bounded by the states of the devices
//! (`penstock_alerts_state_bytes`), `fetch_bytes_max`, and a bounded number of alerts that wait.

mod consume;
mod dispatch;
mod ends;
mod live;
mod record;
mod reload;
mod restore;

use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{
    ClientSettings, Consumer, ConsumerSettings, KafkaError, Outbox, ProvisionError, TransactionSettings,
    provision, topic_specs,
};
use penstock_proto::topics::{ALERT_STATE, DEVICE_ALERTS, LOW_BATTERY, READINGS};
use penstock_service::admin::{Latch, Readiness};
use penstock_service::backoff::Backoff;
use penstock_service::health::Health;
use penstock_service::waiting::until_works;
use penstock_service::{Config, thread};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::rules::{RuleSet, RulesError};
use consume::{Consume, Parts};
use dispatch::Dispatch;
use ends::Ends;
pub(crate) use live::{reading, received_ms};
use record::Topics;
use restore::Restorer;

const PROVISION_TIMEOUT: Duration = Duration::from_secs(10);
/// What an alerter that died left open is aborted after this long. Until then its partitions' next owner waits.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the alert stage ended.
#[derive(Debug, thiserror::Error)]
pub enum AlerterError {
    /// The rules file is wrong.
    #[error("the rules cannot be used; check them with `penstock rules check`:\n{0}")]
    Rules(#[from] RulesError),
    /// The topics are not as they must be.
    #[error(transparent)]
    Topics(#[from] ProvisionError),
    /// The consumer cannot go on.
    #[error("the alert stage cannot go on reading: {0}")]
    Kafka(#[from] KafkaError),
    /// A thread cannot be started, or ended without a result.
    #[error("a thread of the alert stage ended: {0}")]
    Thread(String),
}

/// Runs the alert stage until `shutdown` is cancelled; then it stores what it has raised, saves what its rules know, and
/// leaves the group within `alerts.drain_timeout_ms`.
///
/// Waits for a Kafka that is not there. Readiness gets the latch `alerts` at once, before the future is polled.
/// `reloads` changes when the rules are to be read again.
///
/// # Errors
/// [`AlerterError`] where waiting cannot help: wrong rules, a topic with another number of partitions, a consumer that
/// was fenced off.
pub fn run(
    config: &Config,
    metrics: Metrics,
    readiness: &Readiness,
    reloads: watch::Receiver<u64>,
    shutdown: CancellationToken,
) -> impl Future<Output = Result<(), AlerterError>> + Send + use<> {
    let latch = readiness.latch("alerts");
    run_with(config.clone(), metrics, latch, reloads, shutdown)
}

async fn run_with(
    config: Config,
    metrics: Metrics,
    latch: Latch,
    reloads: watch::Receiver<u64>,
    shutdown: CancellationToken,
) -> Result<(), AlerterError> {
    let rules = Arc::new(RuleSet::configured(&config.alerts.rules)?);
    let client = ClientSettings {
        brokers: config.kafka.brokers.clone(),
        client_id: config.alerts.group.clone(),
        properties: config.kafka.properties.clone(),
    };
    let backoff_ms = (config.alerts.backoff_min_ms, config.alerts.backoff_max_ms);
    let specs = topic_specs(&config.kafka.topic_prefix, config.kafka.replication_factor);
    let passing = |error: &ProvisionError| error.is_transient().then_some("unreachable");
    let attempt = || provision(&client, &specs, PROVISION_TIMEOUT);
    let backoff = Backoff::new(backoff_ms.0, backoff_ms.1);
    let what = "preparing the alert stage's topics in Kafka";
    if until_works(what, backoff, &shutdown, passing, attempt).await?.is_none() {
        return Ok(());
    }
    // Ends the threads when this future is dropped.
    let stop = shutdown.child_token();
    let abort = CancellationToken::new();
    let _guards = (stop.clone().drop_guard(), abort.clone().drop_guard());
    let topics = topics(&config.kafka.topic_prefix);
    let ends = Ends::default();
    let (rules_in, rules_out) = watch::channel(rules);
    let restorer = Restorer {
        client: client.clone(),
        group: config.alerts.group.clone(),
        topics: topics.clone(),
        backoff_ms,
    };
    let parts = Parts {
        consumer: consumer(&client, &config, &topics)?,
        topic: Arc::clone(&topics.readings),
        dispatch: dispatch(&client, &config, &topics, &metrics, &abort),
        restorer,
        ends: ends.clone(),
        health: Health::new(latch, "reading from Kafka for alerts"),
        metrics: metrics.clone(),
        rules: rules_out,
        abort: abort.clone(),
    };
    let consume = Consume::new(parts, &config.alerts);
    let group = config.alerts.group.clone();
    tokio::spawn(ends::watch(ends, client, group, Arc::clone(&topics.readings), abort.clone()));
    tokio::spawn(reload::watch(config.alerts.rules.clone(), rules_in, reloads, metrics, abort.clone()));
    tracing::info!(group = config.alerts.group, "alert stage is ready");
    // Polling Kafka blocks.
    let ended = thread::run("penstock-alerts", move || consume.run(&stop)).await;
    ended.unwrap_or_else(|error| Err(AlerterError::Thread(error.to_string())))
}

fn topics(prefix: &str) -> Topics {
    let named = |name: &str| Arc::from(format!("{prefix}{name}"));
    Topics {
        readings: named(READINGS),
        device_alerts: named(DEVICE_ALERTS),
        low_battery: named(LOW_BATTERY),
        state: named(ALERT_STATE),
    }
}

fn consumer(client: &ClientSettings, config: &Config, topics: &Topics) -> Result<Consumer, KafkaError> {
    let settings = ConsumerSettings {
        group: config.alerts.group.clone(),
        topics: vec![topics.readings.to_string()],
        fetch_bytes_max: config.alerts.fetch_bytes_max,
        session_timeout_ms: config.alerts.session_timeout_ms,
        instance_id: None,
        // What an aborted replay of dead letters has left must raise nothing.
        read_committed: true,
    };
    Consumer::subscribe(client, &settings)
}

fn dispatch(
    client: &ClientSettings,
    config: &Config,
    topics: &Topics,
    metrics: &Metrics,
    abort: &CancellationToken,
) -> Dispatch {
    let settings = TransactionSettings {
        transactional_id: format!("{}-{}", config.alerts.group, uuid::Uuid::new_v4().simple()),
        timeout: TRANSACTION_TIMEOUT,
        ..TransactionSettings::default()
    };
    let outbox = Outbox::new(client.clone(), settings, abort.clone());
    let backoff = Backoff::new(config.alerts.backoff_min_ms, config.alerts.backoff_max_ms);
    Dispatch::new(outbox, topics.clone(), metrics.clone(), backoff)
}
