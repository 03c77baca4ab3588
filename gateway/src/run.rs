//! The gateway role: from configuration to a listening socket, and down again in good order.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use penstock_bridge::Bridge;
use penstock_kafka::{ClientSettings, KafkaError, Producer, ProducerSettings, ProvisionError};
use penstock_proto::Limits;
use penstock_service::admin::{Latch, Readiness};
use penstock_service::backoff::Backoff;
use penstock_service::waiting::until_works;
use penstock_service::{Config, shutdown};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::clients::Clients;
use crate::connection::Shared;
use crate::handshake::Handshakes;
use crate::listener::{Acceptor, BindError, Bound};
use crate::metrics::Metrics;
use crate::tls::{TlsConfig, TlsError};

/// How long one attempt to reach Kafka at start may take.
const PROVISION_TIMEOUT: Duration = Duration::from_secs(5);

/// What the gateway is given by the process it runs in.
#[derive(Debug)]
pub struct Parts {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// What the gateway counts.
    pub metrics: Metrics,
    /// What the bridge counts.
    pub bridge_metrics: penstock_bridge::Metrics,
    /// Where the gateway says what it waits for.
    pub readiness: Readiness,
    /// Changes when certificates are to be read again.
    pub reloads: watch::Receiver<u64>,
    /// Ends the gateway in good order.
    pub shutdown: CancellationToken,
}

/// The gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A certificate, key or revocation list cannot be used.
    #[error("gateway.tls: {0}")]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A Kafka topic is not what the contract says, or Kafka refuses to create it.
    #[error("kafka: {0}")]
    Provision(#[from] ProvisionError),
    /// The Kafka client refuses its configuration.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
}

/// What the gateway has to have before devices can use it.
#[derive(Debug)]
struct Latches {
    kafka: Latch,
    listening: Latch,
}

/// Runs the gateway until shutdown. Its latches are there when this returns, before the future is first polled: whoever
/// asks for readiness meanwhile must not find that nothing is waited for.
///
/// Bad certificates and a taken address are errors at once; an absent Kafka is waited for. Nobody can connect before
/// the topics are there and right.
///
/// # Errors
/// [`GatewayError`] where it cannot start.
pub fn run(parts: Parts) -> impl Future<Output = Result<(), GatewayError>> + Send {
    let latches = Latches {
        kafka: parts.readiness.latch("gateway-kafka"),
        listening: parts.readiness.latch("gateway-listening"),
    };
    serve(parts, latches)
}

async fn serve(parts: Parts, latches: Latches) -> Result<(), GatewayError> {
    let Parts { config, metrics, bridge_metrics, reloads, shutdown, .. } = parts;
    let tls = Arc::new(TlsConfig::load(&config.gateway.tls)?);
    let bound = Bound::bind(config.gateway.listen)?;

    let client = client_settings(&config);
    if provision(&config, &client, &shutdown).await?.is_none() {
        return Ok(());
    }
    latches.kafka.set(true);

    let bridge = Arc::new(bridge(&config, &client, bridge_metrics)?);
    let shared = Arc::new(Shared {
        bridge: Arc::clone(&bridge),
        limits: config.gateway.limits.clone(),
        metrics: metrics.clone(),
        clients: Arc::new(Clients::default()),
        unfinished_bytes: Arc::new(AtomicUsize::new(0)),
    });
    let tasks = TaskTracker::new();
    let acceptor = Acceptor {
        shared: Arc::clone(&shared),
        handshakes: Arc::new(handshakes(&config, &tls)),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    };
    let address = bound.address();
    let listener = bound.listen()?;
    info!(%address, "gateway listens");
    latches.listening.set(true);
    let reload = reload_certificates(tls, reloads, metrics);
    tokio::select! {
        () = acceptor.accept(listener) => {}
        () = reload => {}
    }
    latches.listening.set(false);
    drain(&shared, &tasks, Duration::from_millis(config.gateway.limits.drain_timeout_ms)).await;
    Ok(())
}

/// Lets receipts finish and devices go.
async fn drain(shared: &Shared, tasks: &TaskTracker, deadline: Duration) {
    info!(connections = tasks.len(), "gateway stops: no new connections, open receipts finish");
    shared.clients.drain();
    if let Err(unfinished) = shutdown::drain(deadline, &[("gateway connections", tasks)]).await {
        warn!(%unfinished, "devices whose publishes were not acknowledged will send them again");
    }
    shared.bridge.producer().flush(Duration::from_secs(1)).await;
}

fn client_settings(config: &Config) -> ClientSettings {
    ClientSettings {
        brokers: config.kafka.brokers.clone(),
        client_id: "penstock-gateway".to_owned(),
        properties: config.kafka.properties.clone(),
    }
}

/// Creates what topics are missing and checks the rest; waits for Kafka as long as it takes, and says so once. `None` if
/// the gateway is to stop before.
async fn provision(
    config: &Config,
    client: &ClientSettings,
    shutdown: &CancellationToken,
) -> Result<Option<()>, ProvisionError> {
    let specs = penstock_kafka::topic_specs(&config.kafka.topic_prefix, config.kafka.replication_factor);
    let passing = |error: &ProvisionError| error.is_transient().then_some("unreachable");
    let attempt = || penstock_kafka::provision(client, &specs, PROVISION_TIMEOUT);
    let what = "preparing the gateway's topics in Kafka";
    until_works(what, Backoff::new(100, 2_000), shutdown, passing, attempt).await
}

fn bridge(
    config: &Config,
    client: &ClientSettings,
    metrics: penstock_bridge::Metrics,
) -> Result<Bridge, KafkaError> {
    let settings = &config.bridge;
    let producer = Producer::new(
        client,
        &ProducerSettings {
            linger_ms: settings.linger_ms,
            delivery_timeout_ms: settings.delivery_timeout_ms,
            queue_bytes_max: settings.queue_bytes_max,
            queue_records_max: settings.queue_records_max,
            compression: settings.compression.as_str().to_owned(),
        },
    )?;
    let limits = Limits {
        past_ms: i64::from(settings.timestamp_past_days) * 24 * 60 * 60 * 1000,
        future_ms: i64::from(settings.timestamp_future_hours) * 60 * 60 * 1000,
        metrics_max: settings.metrics_max,
        metric_name_bytes_max: settings.metric_name_bytes_max,
        batch_readings_max: settings.batch_readings_max,
        reading_bytes_max: settings.reading_bytes_max,
    };
    Bridge::new(producer, &config.kafka.topic_prefix, limits, settings.queue_records_max, metrics)
}

fn handshakes(config: &Config, tls: &Arc<TlsConfig>) -> Handshakes {
    let settings = &config.gateway.tls;
    Handshakes::new(
        Arc::clone(tls),
        settings.handshakes_max,
        Duration::from_millis(settings.handshake_timeout_ms),
    )
}

/// Reads certificates again whenever asked to; never ends while it can be asked.
async fn reload_certificates(tls: Arc<TlsConfig>, mut reloads: watch::Receiver<u64>, metrics: Metrics) {
    while reloads.changed().await.is_ok() {
        match tls.reload() {
            Ok(()) => {
                metrics.tls_reloads.inc();
                info!("certificates reloaded; open connections keep theirs");
            }
            Err(error) => {
                metrics.tls_reload_errors.inc();
                error!(%error, "certificates not reloaded; those in force stay");
            }
        }
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use penstock_proto::topics::{CONTRACTS, READINGS, READINGS_DLQ};
    use penstock_service::config::{PACKET_BYTES_MAX, READING_BYTES_MAX};

    #[test]
    fn whatever_can_be_configured_fits_into_a_record() {
        let record_bytes_max = |name| {
            CONTRACTS
                .iter()
                .find(|contract| contract.name == name)
                .map(|c| i64::from(c.record_bytes_max))
                .unwrap()
        };
        assert!(PACKET_BYTES_MAX + 64 * 1024 <= record_bytes_max(READINGS_DLQ));
        assert!(READING_BYTES_MAX + 4 * 1024 <= record_bytes_max(READINGS));
    }
}
