//! A writer under test, the records it is given, and what it has made of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use penstock_devstack::{ClickHouse, Kafka};
use penstock_kafka::{ClientSettings, ScanFrom, Scanner};
use penstock_loadgen::feed::Feed;
use penstock_proto::topics::{READINGS, STORAGE_FAILURES};
use penstock_proto::v1::SensorReading;
use penstock_service::Config;
use penstock_service::admin::Readiness;
use penstock_storage_writer::clickhouse::Client;
use penstock_storage_writer::{Metrics, WriterError, run};
use prometheus_client::registry::Registry;
use prost::Message;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{clickhouse_config, unique};

/// No state is waited for longer than this.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The configuration of a writer with topics, a group and a database of its own.
pub fn config(kafka: &Kafka, clickhouse: &ClickHouse) -> Config {
    let mut config = Config::default();
    config.kafka.brokers = kafka.brokers();
    config.kafka.topic_prefix = format!("{}.", unique("t"));
    config.clickhouse = clickhouse_config(clickhouse);
    config.writer.group = unique("writer");
    config.writer.session_timeout_ms = 6_000;
    config.writer.backoff_max_ms = 500;
    config
}

pub fn settings(config: &Config) -> ClientSettings {
    ClientSettings {
        brokers: config.kafka.brokers.clone(),
        client_id: "test".to_owned(),
        properties: BTreeMap::new(),
    }
}

/// A running writer.
pub struct Writer {
    pub metrics: Metrics,
    pub readiness: Readiness,
    registry: Registry,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), WriterError>>,
}

impl Writer {
    pub fn start(config: &Config) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let readiness = Readiness::new();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(config, metrics.clone(), &readiness, shutdown.clone()));
        Self { metrics, readiness, registry, shutdown, task }
    }

    /// Starts a writer and waits until it is ready.
    pub async fn ready(config: &Config) -> Self {
        let writer = Self::start(config);
        writer.wait_ready().await;
        writer
    }

    pub async fn wait_ready(&self) {
        let is_ready = || async { self.task.is_finished() || self.readiness.waiting_for().is_empty() };
        until("the writer is ready", is_ready).await;
    }

    /// The value of a metric by its name with labels, as `/metrics` shows it; 0 if it is not shown.
    pub fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(self) -> Result<(), WriterError> {
        self.shutdown.cancel();
        self.ended().await
    }

    /// Waits until it has ended by itself.
    pub async fn ended(self) -> Result<(), WriterError> {
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the writer ends")
            .expect("the writer does not panic")
    }

    /// Ends it as a crash would: nothing is stored, committed or said.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Puts records where the writer reads them.
pub struct Source(Feed);

impl Source {
    pub fn new(config: &Config) -> Self {
        let topic = format!("{}{READINGS}", config.kafka.topic_prefix);
        Self(Feed::new(&settings(config), &topic).unwrap())
    }

    /// Sends a reading of a device.
    pub fn reading(&mut self, device: u32, sequence: u64) {
        self.record(Some(&key(device)), &reading(sequence).encode_to_vec());
    }

    /// Sends `count` readings of each of `devices` devices, numbered from `first`.
    pub fn readings(&mut self, devices: u32, first: u64, count: u64) {
        for sequence in first..first + count {
            (0..devices).for_each(|device| self.reading(device, sequence));
        }
    }

    /// Sends a record as it is.
    pub fn record(&mut self, key: Option<&[u8]>, payload: &[u8]) {
        self.0.send(key, payload, None).unwrap();
    }

    /// Waits until Kafka has everything that was sent.
    pub async fn delivered(&mut self) {
        self.0.delivered().await.expect("Kafka takes the records");
    }
}

/// The key of a test device.
pub fn key(device: u32) -> [u8; 16] {
    let mut key = [0xd0; 16];
    key[12..].copy_from_slice(&device.to_be_bytes());
    key
}

/// A reading of a test device.
pub fn reading(sequence: u64) -> SensorReading {
    let step = i64::try_from(sequence).unwrap();
    SensorReading {
        timestamp: 1_790_000_000_000 + step * 1_000,
        temperature: Some(20.5),
        battery_level: Some(90),
        sequence,
        metrics: [("rssi".to_owned(), -70.0)].into(),
        ..Default::default()
    }
}

/// The rows of a database.
pub struct Rows {
    client: Client,
    database: String,
}

impl Rows {
    pub fn of(config: &Config) -> Self {
        Self {
            client: Client::new(&config.clickhouse).unwrap(),
            database: config.clickhouse.database.clone(),
        }
    }

    /// A number about a table or view; 0 while ClickHouse is away.
    pub async fn number(&self, select: &str, table: &str) -> u64 {
        let sql = format!("SELECT {select} FROM {}.{table}", self.database);
        match self.client.query(&sql).await {
            Ok(text) => text.trim().parse().unwrap(),
            Err(_) => 0,
        }
    }

    /// Distinct readings, counted without the help of the table's engine.
    pub async fn distinct(&self) -> u64 {
        self.number("uniqExact(device_id, timestamp, sequence)", "readings").await
    }

    pub async fn wait_for(&self, readings: u64) {
        until(&format!("{readings} readings are stored"), || async { self.distinct().await >= readings })
            .await;
        assert_eq!(self.distinct().await, readings);
        assert_eq!(self.number("count()", "readings_unique").await, readings);
    }
}

/// A record of the storage-failures topic: headers by name, key, payload.
pub type Failure = (BTreeMap<String, String>, Option<Vec<u8>>, Vec<u8>);

/// Everything in the storage-failures topic.
pub fn failures(config: &Config) -> Vec<Failure> {
    let topic = format!("{}{STORAGE_FAILURES}", config.kafka.topic_prefix);
    let mut scanner = Scanner::open(&settings(config), &topic, &ScanFrom::Beginning, true).unwrap();
    let mut found = Vec::new();
    while let Some(batch) = scanner.next_batch(1_000, Duration::from_secs(5)).unwrap() {
        for record in &batch {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers =
                record.headers().into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
            found.push((headers, record.key.map(<[u8]>::to_vec), record.payload.to_vec()));
        }
    }
    found
}

/// Waits for a state, with a deadline.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
