//! A raw MQTT client for benchmarks: thousands of connections in one process at little cost, against any broker.
//!
//! It publishes prepared QoS 1 packets over TLS, one message a TLS record, with a fixed number in flight for each
//! connection, and counts acknowledgements. All connections stand before the clock starts. It keeps no ledger and
//! never re-sends: a lost connection ends the run. To learn whether readings are stored, use the fleet.

mod connection;
mod packets;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_certs::device_ids;
use penstock_proto::{DeviceId, topics};
use rustls::ClientConfig;
use serde::Serialize;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::connection::{Connection, Done, Target};
use crate::mqtt::Version;
use crate::stats::{Durations, Latency};
use crate::tls::{Identities, TlsError, anonymous, trust};

/// Handshakes at the same time.
const CONNECTING_MAX: usize = 32;

/// What to publish, where, and how hard.
#[derive(Clone, Debug)]
pub struct BlastOptions {
    /// Host name or IP address.
    pub host: String,
    /// TLS port.
    pub port: u16,
    /// Authorities that the server's certificate is verified against, PEM.
    pub ca_pem: String,
    /// Certificates of the devices; `None` connects without.
    pub identities: Option<Identities>,
    /// Topic to publish to; `{device}` stands for the connection's device. `None`: `devices/{device}/readings`.
    pub topic: Option<String>,
    /// Connections, 1 to 60,000.
    pub connections: usize,
    /// Messages over all connections.
    pub count: u64,
    /// Messages in flight for each connection; the server's Receive Maximum may lower it.
    pub inflight_max: u16,
    /// Protocol version.
    pub version: Version,
    /// Device ids follow from it, unless certificates come from a folder.
    pub seed: u64,
    /// The longest the run may take, and as long again for connecting.
    pub timeout: Duration,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct BlastReport {
    /// Connections.
    pub connections: usize,
    /// Messages in flight for each connection at most, as asked for.
    pub inflight_max: u16,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages whose acknowledgement has a failure reason (MQTT 5).
    pub refused: u64,
    /// From the first publish to the last acknowledgement, in seconds.
    pub elapsed_s: f64,
    /// Acknowledged messages per second of that time.
    pub acked_per_s: f64,
    /// How long it took until all connections stood, in seconds.
    pub connect_s: f64,
    /// From encryption to acknowledgement, one message in 16 at most, in milliseconds.
    pub puback_ms: Option<Latency>,
    /// Whether all messages were acknowledged in time.
    pub complete: bool,
    /// Why not.
    pub error: Option<String>,
}

/// The run could not begin, or a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum BlastError {
    /// A certificate is missing or refused.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TLS library refused the configuration.
    #[error("TLS: {0}")]
    Config(rustls::Error),
    /// The connection failed.
    #[error("connection: {0}; is the address right, and does the server trust the clients' certificates?")]
    Io(std::io::Error),
    /// The host is no name a certificate can have.
    #[error("the host is neither a DNS name nor an IP address")]
    Host,
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server said no, or something else than expected.
    #[error("{0}")]
    Protocol(String),
    /// The connections did not stand in time.
    #[error("not all connections stood within {0:?}")]
    ConnectTimeout(Duration),
    /// A number is out of range.
    #[error("{0}")]
    Usage(String),
}

impl From<rustls::Error> for BlastError {
    fn from(error: rustls::Error) -> Self {
        Self::Config(error)
    }
}

impl From<std::io::Error> for BlastError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<packets::PacketError> for BlastError {
    fn from(error: packets::PacketError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// Connects, publishes, counts.
///
/// # Errors
/// [`BlastError`] until all connections stand. Afterwards failures are in the report, with what was acknowledged.
pub async fn blast(options: &BlastOptions) -> Result<BlastReport, BlastError> {
    check(options)?;
    let began = Instant::now();
    let connecting = tokio::time::timeout(options.timeout, open_all(options));
    let connections = connecting.await.map_err(|_| BlastError::ConnectTimeout(options.timeout))??;
    let connect_s = began.elapsed().as_secs_f64();
    let durations = Arc::new(Durations::new());
    let started = Instant::now();
    let (done, error) = publish_all(options, connections, &durations).await;
    let elapsed_s = done.last.map_or(Duration::ZERO, |last| last - started).as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "messages of a run are far below 2^52")]
    let acked_per_s = if elapsed_s > 0.0 { done.acked as f64 / elapsed_s } else { 0.0 };
    Ok(BlastReport {
        connections: options.connections,
        inflight_max: options.inflight_max,
        acked: done.acked,
        refused: done.refused,
        elapsed_s,
        acked_per_s,
        connect_s,
        puback_ms: durations.latency(),
        complete: done.acked == options.count,
        error,
    })
}

fn check(options: &BlastOptions) -> Result<(), BlastError> {
    let connections = options.connections as u64;
    if !(1..=60_000).contains(&connections) {
        return Err(BlastError::Usage(format!("{connections} connections are outside 1 to 60000")));
    }
    if options.count / connections >= packets::MESSAGES_MAX {
        let max = packets::MESSAGES_MAX;
        return Err(BlastError::Usage(format!(
            "a connection publishes at most {max} messages: use more connections"
        )));
    }
    Ok(())
}

fn targets(options: &BlastOptions) -> Result<Vec<Target>, BlastError> {
    let roots = trust(&options.ca_pem)?;
    let devices = match &options.identities {
        Some(identities) => identities.devices(options.connections, options.seed, &HashSet::new())?,
        None => device_ids(Some(options.seed), options.connections),
    };
    let anonymous = anonymous(Arc::clone(&roots))?;
    let host: Arc<str> = options.host.as_str().into();
    let tls = |device: DeviceId| -> Result<Arc<ClientConfig>, TlsError> {
        match &options.identities {
            Some(identities) => identities.client_config(device, Arc::clone(&roots)),
            None => Ok(Arc::clone(&anonymous)),
        }
    };
    let target = |device: DeviceId| {
        let topic = options.topic.as_ref().map(|topic| topic.replace("{device}", &device.to_string()));
        Ok(Target {
            host: Arc::clone(&host),
            port: options.port,
            tls: tls(device)?,
            version: options.version,
            client_id: device.to_string(),
            topic: topic.unwrap_or_else(|| topics::readings_topic(device)),
            device,
        })
    };
    devices.into_iter().map(target).collect()
}

async fn open_all(options: &BlastOptions) -> Result<Vec<Connection>, BlastError> {
    let permits = Arc::new(Semaphore::new(CONNECTING_MAX));
    let mut opening = JoinSet::new();
    for target in targets(options)? {
        let permits = Arc::clone(&permits);
        opening.spawn(async move {
            let _permit = permits.acquire_owned().await;
            Connection::open(&target).await
        });
    }
    let mut connections = Vec::with_capacity(options.connections);
    while let Some(opened) = opening.join_next().await {
        connections.push(opened.map_err(|error| BlastError::Protocol(error.to_string()))??);
    }
    Ok(connections)
}

async fn publish_all(
    options: &BlastOptions,
    connections: Vec<Connection>,
    durations: &Arc<Durations>,
) -> (Done, Option<String>) {
    let (share, rest) = (options.count / connections.len() as u64, options.count % connections.len() as u64);
    let barrier = Arc::new(Barrier::new(connections.len()));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for (index, mut connection) in (0..).zip(connections) {
        let messages = share + u64::from(index < rest);
        let (barrier, durations, stop) = (Arc::clone(&barrier), Arc::clone(durations), stop.clone());
        let inflight_max = options.inflight_max;
        tasks.spawn(async move {
            let mut done = Done::default();
            barrier.wait().await;
            let result = tokio::select! {
                result = connection.blast(messages, inflight_max, &durations, &mut done) => result.map_err(|e| e.to_string()),
                () = stop.cancelled() => Err("the run was stopped".to_owned()),
            };
            if result.is_ok() {
                connection.close().await;
            }
            (done, result)
        });
    }
    collect(tasks, &stop, options.timeout).await
}

async fn collect(
    mut tasks: JoinSet<(Done, Result<(), String>)>,
    stop: &CancellationToken,
    timeout: Duration,
) -> (Done, Option<String>) {
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    let (mut sum, mut error) = (Done::default(), None);
    loop {
        tokio::select! {
            task = tasks.join_next() => match task {
                None => return (sum, error),
                Some(Ok((done, result))) => {
                    sum.acked += done.acked;
                    sum.refused += done.refused;
                    sum.last = sum.last.max(done.last);
                    if let Err(why) = result {
                        // The first failure ends the run: the rate of fewer connections would be another figure.
                        error.get_or_insert(why);
                        stop.cancel();
                    }
                }
                Some(Err(panicked)) => {
                    error.get_or_insert(panicked.to_string());
                    stop.cancel();
                }
            },
            () = &mut deadline, if !stop.is_cancelled() => {
                error.get_or_insert(format!("not done within {timeout:?}"));
                stop.cancel();
            }
        }
    }
}
