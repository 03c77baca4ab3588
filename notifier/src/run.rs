//! The role: starts a reader for each receiver that is configured, once the topics are there and it is known what
//! people have silenced and acknowledged.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use penstock_kafka::{ClientSettings, Consumer, ConsumerSettings, KafkaError, ProvisionError, provision};
use penstock_proto::topics::ALERT_CONTROLS;
use penstock_service::admin::{Latch, Readiness};
use penstock_service::backoff::Backoff;
use penstock_service::config::Notify;
use penstock_service::health::Health;
use penstock_service::thread;
use penstock_service::waiting::until_works;
use penstock_service::{Config, Secret};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::controls::Controls;
use crate::deliver::Courier;
use crate::desk::{Desk, Rules};
use crate::follow::Follower;
use crate::history::Historian;
use crate::http::{Poster, PosterError};
use crate::ledger::AlertTopic;
use crate::letters::Letters;
use crate::metrics::Metrics;
use crate::notice::Receiver;
use crate::reader::{Parts, Reader};

const PROVISION_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses before Kafka is asked again at the start, in milliseconds.
const PAUSES_MS: (u64, u64) = (100, 5_000);
/// Bytes that librdkafka may hold of alerts for one receiver.
const FETCH_BYTES_MAX: usize = 8 << 20;
/// How long letters that Kafka has not answered may take at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the role ended.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// There is nobody to notify.
    #[error(
        "notify.alertmanager_url and notify.webhook_url are both empty: there is nobody to notify; set one of them, \
         such as --set notify.alertmanager_url=http://127.0.0.1:9093"
    )]
    NobodyToNotify,
    /// `[notify]` names an address that nothing can be posted to.
    #[error("notify.{receiver}_url: {cause}")]
    Address {
        /// Of which receiver.
        receiver: Receiver,
        /// What is wrong.
        cause: PosterError,
    },
    /// The topics are not as they must be.
    #[error(transparent)]
    Topics(#[from] ProvisionError),
    /// A consumer or producer cannot go on.
    #[error("alerts cannot be read on: {0}")]
    Kafka(#[from] KafkaError),
    /// A thread cannot be started, or ended without a result.
    #[error("the thread of the {0} ended: {1}")]
    Thread(&'static str, String),
}

/// Whether there is somebody to notify.
pub fn is_configured(config: &Notify) -> bool {
    !receivers(config).is_empty()
}

fn receivers(config: &Notify) -> Vec<(Receiver, String, Secret)> {
    let mut receivers = Vec::new();
    if !config.alertmanager_url.is_empty() {
        let url = format!("{}/api/v2/alerts", config.alertmanager_url.trim_end_matches('/'));
        receivers.push((Receiver::Alertmanager, url, config.alertmanager_authorization.clone()));
    }
    if !config.webhook_url.is_empty() {
        receivers.push((Receiver::Webhook, config.webhook_url.clone(), config.webhook_authorization.clone()));
    }
    receivers
}

/// The consumer group of a receiver.
pub fn group_of(config: &Notify, receiver: Receiver) -> String {
    format!("{}-{receiver}", config.group)
}

/// What has to be there before the role is ready.
struct Latches {
    kafka: Latch,
    controls: Latch,
    readers: Vec<Latch>,
}

/// Runs the role until `shutdown` is cancelled; then it delivers what waits, commits and leaves its groups within
/// `notify.drain_timeout_ms`.
///
/// Waits for a Kafka that is not there; receivers that are away do not keep it from being ready. Readiness gets its
/// latches at once, before the future is polled.
///
/// # Errors
/// [`NotifyError`] where waiting cannot help: nobody to notify, a topic with another number of partitions, a consumer
/// that was fenced off.
pub fn run(
    config: &Config,
    metrics: Metrics,
    readiness: &Readiness,
    shutdown: CancellationToken,
) -> impl Future<Output = Result<(), NotifyError>> + Send + use<> {
    let reader = |(receiver, _, _): &(Receiver, String, Secret)| match receiver {
        Receiver::Alertmanager => readiness.latch("notify-alertmanager-kafka"),
        Receiver::Webhook => readiness.latch("notify-webhook-kafka"),
    };
    let latches = Latches {
        kafka: readiness.latch("notify-kafka"),
        controls: readiness.latch("notify-controls"),
        readers: receivers(&config.notify).iter().map(reader).collect(),
    };
    run_with(config.clone(), metrics, latches, shutdown)
}

async fn run_with(
    config: Config,
    metrics: Metrics,
    latches: Latches,
    shutdown: CancellationToken,
) -> Result<(), NotifyError> {
    let receivers = receivers(&config.notify);
    if receivers.is_empty() {
        return Err(NotifyError::NobodyToNotify);
    }
    let timeout = Duration::from_millis(config.notify.timeout_ms);
    let mut posters = Vec::new();
    for (receiver, url, authorization) in &receivers {
        let poster = Poster::new(url, authorization, timeout);
        posters
            .push((*receiver, poster.map_err(|cause| NotifyError::Address { receiver: *receiver, cause })?));
    }
    if topics(&config, &shutdown).await?.is_none() {
        return Ok(());
    }
    latches.kafka.set(true);
    // Ends the threads when this future is dropped.
    let stop = shutdown.child_token();
    let _guard = stop.clone().drop_guard();
    let controls = Arc::new(ArcSwap::from_pointee(Controls::default()));
    let loaded = CancellationToken::new();
    let run_id = uuid::Uuid::new_v4().simple().to_string();
    let follower = Follower {
        client: client(&config),
        topic: format!("{}{ALERT_CONTROLS}", config.kafka.topic_prefix),
        group: format!("{}-controls-{run_id}", config.notify.group),
        shared: Arc::clone(&controls),
        metrics: metrics.clone(),
        latch: latches.controls,
        stop: stop.clone(),
    };
    follower.spawn(loaded.clone()).map_err(|error| NotifyError::Thread("controls", error.to_string()))?;
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        () = loaded.cancelled() => {}
    }
    let mut threads = tokio::task::JoinSet::new();
    for ((receiver, poster), latch) in posters.into_iter().zip(latches.readers) {
        let reader = reader(&config, receiver, poster, &controls, &metrics, latch)?;
        threads.spawn(on_thread(receiver.name(), reader, stop.clone()));
        tracing::info!(
            receiver = receiver.name(),
            group = group_of(&config.notify, receiver),
            "notifier is ready"
        );
    }
    let mut outcome = Ok(());
    while let Some(ended) = threads.join_next().await {
        let ended = ended.unwrap_or_else(|_| Err(NotifyError::Thread("receiver", "it panicked".to_owned())));
        if ended.is_err() && outcome.is_ok() {
            outcome = ended;
            stop.cancel();
        }
    }
    outcome
}

fn client(config: &Config) -> ClientSettings {
    ClientSettings {
        brokers: config.kafka.brokers.clone(),
        client_id: config.notify.group.clone(),
        properties: config.kafka.properties.clone(),
    }
}

fn reader(
    config: &Config,
    receiver: Receiver,
    poster: Poster,
    controls: &Arc<ArcSwap<Controls>>,
    metrics: &Metrics,
    latch: Latch,
) -> Result<(Reader, Arc<Courier>), NotifyError> {
    let notify = &config.notify;
    let prefix = &config.kafka.topic_prefix;
    let (client, group) = (client(config), group_of(notify, receiver));
    let settings = ConsumerSettings {
        group: group.clone(),
        topics: AlertTopic::ALL.map(|topic| format!("{prefix}{}", topic.name())).to_vec(),
        fetch_bytes_max: FETCH_BYTES_MAX,
        session_timeout_ms: notify.session_timeout_ms,
        instance_id: None,
        read_committed: true,
    };
    let abort = CancellationToken::new();
    let counts = metrics.of(receiver);
    let letters = Letters::new(&client, prefix, receiver, counts.clone(), abort.clone())?;
    let courier =
        Courier::new(receiver, poster, letters, Arc::clone(controls), counts.clone(), notify, abort.clone());
    let courier = Arc::new(courier);
    let historian = Historian {
        client: client.clone(),
        group,
        prefix: prefix.clone(),
        back: Duration::from_millis(notify.give_up_after_ms),
        bytes_max: notify.active_bytes_max,
        stop: abort.clone(),
    };
    let reader = Reader::new(Parts {
        consumer: Consumer::subscribe(&client, &settings)?,
        desk: Desk::new(Rules::of(receiver, notify)),
        courier: Arc::clone(&courier),
        historian,
        controls: Arc::clone(controls),
        counts,
        health: Health::new(latch, "reading alerts from Kafka"),
        runtime: Handle::current(),
        drain_timeout: Duration::from_millis(notify.drain_timeout_ms),
        abort,
    });
    Ok((reader, courier))
}

/// Runs a reader on a thread of its own: polling Kafka blocks.
async fn on_thread(
    name: &'static str,
    (reader, courier): (Reader, Arc<Courier>),
    stop: CancellationToken,
) -> Result<(), NotifyError> {
    let ended = thread::run(format!("penstock-{name}"), move || reader.run(&stop)).await;
    let ended = ended.unwrap_or_else(|error| Err(NotifyError::Thread(name, error.to_string())));
    courier.letters().flush(FLUSH_TIMEOUT).await;
    ended
}

/// Waits until the topics are as they must be. `None` if the role is to stop before.
async fn topics(config: &Config, shutdown: &CancellationToken) -> Result<Option<()>, NotifyError> {
    let specs = penstock_kafka::topic_specs(&config.kafka.topic_prefix, config.kafka.replication_factor);
    let settings = client(config);
    let passing = |error: &ProvisionError| error.is_transient().then_some("unreachable");
    let attempt = || provision(&settings, &specs, PROVISION_TIMEOUT);
    let backoff = Backoff::new(PAUSES_MS.0, PAUSES_MS.1);
    let what = "preparing the topics of notifications in Kafka";
    Ok(until_works(what, backoff, shutdown, passing, attempt).await?)
}
