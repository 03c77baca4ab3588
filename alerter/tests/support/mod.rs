//! An alert stage under test, the readings it is given, and what it has made of them.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use penstock_alerter::audit::{Report, audit};
use penstock_alerter::{AlerterError, Metrics, RuleSet, run};
use penstock_devstack::Kafka;
use penstock_kafka::{ClientSettings, ScanFrom, Scanner};
use penstock_loadgen::feed::Feed;
use penstock_proto::alert_json::from_json;
use penstock_proto::topics::{DEVICE_ALERTS, LOW_BATTERY, READINGS};
use penstock_proto::v1::{DeviceAlert, SensorReading};
use penstock_service::Config;
use penstock_service::admin::Readiness;
use prometheus_client::registry::Registry;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// No state is waited for longer than this.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A name that no other test uses.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{prefix}_{nanos}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The configuration of a stage with topics and a group of its own.
pub fn config(kafka: &Kafka) -> Config {
    let mut config = Config::default();
    config.kafka.brokers = kafka.brokers();
    config.kafka.topic_prefix = format!("{}.", unique("t"));
    config.alerts.group = unique("alerts");
    config.alerts.session_timeout_ms = 6_000;
    config.alerts.backoff_max_ms = 500;
    config
}

pub fn settings(config: &Config) -> ClientSettings {
    ClientSettings {
        brokers: config.kafka.brokers.clone(),
        client_id: "test".to_owned(),
        properties: BTreeMap::new(),
    }
}

/// A running stage.
pub struct Alerter {
    pub readiness: Readiness,
    registry: Registry,
    shutdown: CancellationToken,
    reloads: watch::Sender<u64>,
    task: JoinHandle<Result<(), AlerterError>>,
}

impl Alerter {
    pub fn start(config: &Config) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let readiness = Readiness::new();
        let shutdown = CancellationToken::new();
        let (reloads, asked) = watch::channel(0);
        let task = tokio::spawn(run(config, metrics, &readiness, asked, shutdown.clone()));
        Self { readiness, registry, shutdown, reloads, task }
    }

    /// Starts a stage and waits until it reads all partitions.
    pub async fn ready(config: &Config) -> Self {
        let alerter = Self::start(config);
        until("all partitions are restored", || async {
            alerter.metric("penstock_alerts_restores_total") >= 48.0
        })
        .await;
        alerter
    }

    /// The value of a metric by its name with labels, as `/metrics` shows it; 0 if it is not shown.
    pub fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Has the rules read again.
    pub fn reload(&self) {
        self.reloads.send_modify(|count| *count += 1);
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(self) -> Result<(), AlerterError> {
        self.shutdown.cancel();
        self.ended().await
    }

    /// Waits until it has ended by itself.
    pub async fn ended(self) -> Result<(), AlerterError> {
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the stage ends")
            .expect("the stage does not panic")
    }
}

/// Puts records where the stage reads them.
pub struct Source(Feed);

impl Source {
    pub fn new(config: &Config) -> Self {
        let topic = format!("{}{READINGS}", config.kafka.topic_prefix);
        Self(Feed::new(&settings(config), &topic).unwrap())
    }

    /// Sends a reading of a device.
    pub fn reading(&mut self, device: u32, reading: &SensorReading) {
        self.record(Some(&key(device)), &reading.encode_to_vec(), None);
    }

    /// Sends a record as it is.
    pub fn record(&mut self, key: Option<&[u8]>, payload: &[u8], timestamp_ms: Option<i64>) {
        self.0.send(key, payload, timestamp_ms).unwrap();
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

/// Event time of the first reading of a test.
pub const T0: i64 = 1_790_000_000_000;

/// What a device measures at a second: a temperature, and plenty of battery.
pub fn reading(second: u64, temperature: f32) -> SensorReading {
    SensorReading {
        timestamp: T0 + i64::try_from(second).unwrap() * 1_000,
        temperature: Some(temperature),
        battery_level: Some(90),
        sequence: second,
        ..Default::default()
    }
}

/// The alerts that are committed, in no order.
pub fn alerts(config: &Config) -> Vec<DeviceAlert> {
    let mut found = Vec::new();
    for name in [DEVICE_ALERTS, LOW_BATTERY] {
        let topic = format!("{}{name}", config.kafka.topic_prefix);
        let mut scanner = Scanner::open(&settings(config), &topic, &ScanFrom::Beginning, true).unwrap();
        while let Some(batch) = scanner.next_batch(1_000, Duration::from_secs(5)).unwrap() {
            found.extend(batch.iter().map(|record| from_json(record.payload).unwrap()));
        }
    }
    found
}

/// Compares alerts with readings until nothing is missing, and then says what is wrong.
pub async fn settled(config: &Config, rules: &Arc<RuleSet>) -> Report {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (config, rules) = (config.clone(), Arc::clone(rules));
        let audited = tokio::task::spawn_blocking(move || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let now_ms = i64::try_from(now.as_millis()).unwrap();
            audit(&settings(&config), &config.kafka.topic_prefix, &rules, now_ms).unwrap()
        });
        let report = audited.await.unwrap();
        let missing = report
            .breaches
            .iter()
            .any(|breach| matches!(breach, penstock_alerter::audit::Breach::Missing(_)));
        if !missing || Instant::now() >= deadline {
            return report;
        }
    }
}

pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
