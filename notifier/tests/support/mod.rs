//! One Kafka a test binary; topics and groups a test; receivers of alerts that answer as they are told.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use penstock_devstack::{Kafka, KafkaOptions};
use penstock_kafka::{
    ClientSettings, Consumer, ConsumerSettings, Outgoing, Producer, ProducerSettings, ScanFrom, Scanner,
    TopicPartition, TransactionRecord, TransactionSettings, TransactionalProducer, provision, receipt,
    topic_specs,
};
use penstock_notifier::{Metrics, NotifyError, Receiver, group_of};
use penstock_proto::alert_json::to_json;
use penstock_proto::topics::{ALERT_CONTROLS, DEVICE_ALERTS, LOW_BATTERY};
use penstock_proto::v1::{AlertSeverity, AlertState, DeviceAlert};
use penstock_service::Config;
use penstock_service::admin::Readiness;
use penstock_service::metrics::Registry;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// No state is waited for longer than this.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub static KAFKA: LazyLock<Kafka> = LazyLock::new(|| Kafka::start(&KafkaOptions::default()).unwrap());

pub fn client() -> ClientSettings {
    ClientSettings { brokers: KAFKA.brokers(), client_id: "test".to_owned(), properties: Default::default() }
}

pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Waits for a state, with a deadline.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn device(number: u32) -> String {
    format!("0a1b2c3d-0000-4000-8000-{number:012x}")
}

pub fn alert(id: &str, device_number: u32, state: AlertState) -> DeviceAlert {
    let now = now_ms();
    DeviceAlert {
        id: id.into(),
        rule: "hot".into(),
        device_id: device(device_number),
        severity: AlertSeverity::Warning.into(),
        state: state.into(),
        onset: now - 60_000,
        time: now - 1_000,
        value: 85.5,
        threshold: 80.0,
        text: format!("{id} says 85.5 over 80"),
        ..DeviceAlert::default()
    }
}

pub fn firing(id: &str) -> DeviceAlert {
    alert(id, 1, AlertState::Firing)
}

pub fn resolved(id: &str) -> DeviceAlert {
    alert(id, 1, AlertState::Resolved)
}

/// A record: key, value, headers.
pub type Stored = (Vec<u8>, Vec<u8>, Vec<(String, String)>);

/// What one test has of its own.
pub struct World {
    pub prefix: String,
    pub runtime: Runtime,
    producer: Producer,
}

impl World {
    pub fn new() -> Self {
        let prefix = format!("t{}.", &Uuid::new_v4().simple().to_string()[..12]);
        let runtime = Runtime::new().unwrap();
        runtime.block_on(provision(&client(), &topic_specs(&prefix, -1), PATIENCE)).unwrap();
        Self { prefix, runtime, producer: Producer::new(&client(), &ProducerSettings::default()).unwrap() }
    }

    /// Quick, and with nobody to notify yet.
    pub fn config(&self) -> Config {
        let mut config = Config::default();
        config.kafka.brokers = KAFKA.brokers();
        config.kafka.topic_prefix = self.prefix.clone();
        config.notify.group = format!("{}notify", self.prefix);
        config.notify.group_wait_ms = 1;
        config.notify.backoff_min_ms = 5;
        config.notify.backoff_max_ms = 50;
        config.notify.timeout_ms = 5_000;
        config.notify.session_timeout_ms = 6_000;
        config
    }

    fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: &[u8],
        payload: &[u8],
        timestamp_ms: Option<i64>,
    ) {
        let topic = self.producer.topic(&format!("{}{topic}", self.prefix)).unwrap();
        let (completion, receipt) = receipt();
        let record =
            Outgoing { topic: &topic, key: Some(key), payload, timestamp_ms, headers: &[], partition };
        self.producer.send(record, completion).unwrap();
        self.runtime.block_on(receipt).unwrap();
    }

    pub fn say(&self, alert: &DeviceAlert) {
        self.send(DEVICE_ALERTS, None, alert.device_id.as_bytes(), to_json(alert).as_bytes(), None);
    }

    /// Many at once.
    pub fn say_all(&self, alerts: &[DeviceAlert]) {
        let topic = self.producer.topic(&format!("{}{DEVICE_ALERTS}", self.prefix)).unwrap();
        let mut receipts = Vec::new();
        for alert in alerts {
            let (completion, receipt) = receipt();
            let payload = to_json(alert);
            let record = Outgoing {
                topic: &topic,
                key: Some(alert.device_id.as_bytes()),
                payload: payload.as_bytes(),
                timestamp_ms: None,
                headers: &[],
                partition: None,
            };
            self.producer.send(record, completion).unwrap();
            receipts.push(receipt);
        }
        receipts.into_iter().for_each(|receipt| self.runtime.block_on(receipt).unwrap());
    }

    pub fn say_battery(&self, alert: &DeviceAlert) {
        self.send(LOW_BATTERY, None, alert.device_id.as_bytes(), to_json(alert).as_bytes(), None);
    }

    /// As if it had been said so long ago.
    pub fn said(&self, alert: &DeviceAlert, ago: Duration) {
        let at = now_ms() - i64::try_from(ago.as_millis()).unwrap();
        self.send(DEVICE_ALERTS, None, alert.device_id.as_bytes(), to_json(alert).as_bytes(), Some(at));
    }

    pub fn say_bytes(&self, payload: &[u8]) {
        self.send(DEVICE_ALERTS, Some(3), b"a key", payload, None);
    }

    pub fn control(&self, key: &str, value: &str) {
        self.send(ALERT_CONTROLS, None, key.as_bytes(), value.as_bytes(), None);
    }

    fn transaction(&self, topic: &str, key: &[u8], payload: Option<&[u8]>, commit: bool) {
        let settings = TransactionSettings {
            transactional_id: format!("{}test", self.prefix),
            ..TransactionSettings::default()
        };
        let mut producer = TransactionalProducer::open(&client(), &settings, PATIENCE).unwrap();
        let mut transaction = producer.begin().unwrap();
        let topic = format!("{}{topic}", self.prefix);
        let record = TransactionRecord { key: Some(key), payload, ..TransactionRecord::new(&topic, b"") };
        transaction.send(&record).unwrap();
        if commit {
            transaction.commit(PATIENCE).unwrap();
        } else {
            transaction.abort(PATIENCE).unwrap();
        }
    }

    pub fn take_back(&self, key: &str) {
        self.transaction(ALERT_CONTROLS, key.as_bytes(), None, true);
    }

    pub fn say_in_vain(&self, alert: &DeviceAlert) {
        self.transaction(DEVICE_ALERTS, alert.device_id.as_bytes(), Some(to_json(alert).as_bytes()), false);
    }

    fn asker(&self, group: &str) -> Consumer {
        let settings = ConsumerSettings {
            group: group.to_owned(),
            topics: vec![format!("{}no-such-topic", self.prefix)],
            fetch_bytes_max: 1 << 20,
            session_timeout_ms: 10_000,
            instance_id: None,
            read_committed: true,
        };
        Consumer::subscribe(&client(), &settings).unwrap()
    }

    /// Waits until the group of the receiver has committed everything that there is.
    pub fn until_committed(&self, config: &Config, receiver: Receiver) {
        let asker = self.asker(&group_of(&config.notify, receiver));
        let partitions = self.partitions();
        until("everything is committed", || self.is_committed(&asker, &partitions));
    }

    fn is_committed(&self, asker: &Consumer, partitions: &[TopicPartition]) -> bool {
        let Ok(committed) = asker.committed(partitions, Duration::from_secs(5)) else { return false };
        committed.iter().all(|(partition, offset)| {
            // A broker names leaders of new partitions a little before it leads them.
            let Ok((low, high)) = asker.watermarks(partition, PATIENCE) else { return false };
            low == high || *offset == Some(high)
        })
    }

    /// How much the receiver's group has committed, over all partitions.
    pub fn committed(&self, config: &Config, receiver: Receiver) -> i64 {
        let asker = self.asker(&group_of(&config.notify, receiver));
        asker.committed(&self.partitions(), PATIENCE).unwrap().iter().filter_map(|(_, offset)| *offset).sum()
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        let of = |topic: &str| {
            let name = format!("{}{topic}", self.prefix);
            (0..12).map(move |number| TopicPartition::new(name.as_str(), number)).collect::<Vec<_>>()
        };
        [of(DEVICE_ALERTS), of(LOW_BATTERY)].concat()
    }

    /// Every committed record of a topic: key, value, headers.
    pub fn records(&self, topic: &str) -> Vec<Stored> {
        let topic = format!("{}{topic}", self.prefix);
        let mut scanner = Scanner::open(&client(), &topic, &ScanFrom::Beginning, true).unwrap();
        let mut found = Vec::new();
        while let Some(batch) = scanner.next_batch(1_000, Duration::from_secs(10)).unwrap() {
            found.extend(batch.iter().map(|record| {
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                let headers =
                    record.headers().into_iter().map(|(name, value)| (name.to_owned(), text(value)));
                (record.key.unwrap_or_default().to_vec(), record.payload.to_vec(), headers.collect())
            }));
        }
        found
    }
}

/// The role, in this process.
pub struct Role {
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<Result<(), NotifyError>>>,
    registry: Registry,
    pub readiness: Readiness,
}

impl Role {
    /// Comes back when it is ready.
    pub fn start(world: &World, config: &Config) -> Self {
        let _guard = world.runtime.enter();
        let mut registry = Registry::new();
        let (stop, readiness) = (CancellationToken::new(), Readiness::new());
        let metrics = Metrics::register(&mut registry);
        let task = tokio::spawn(penstock_notifier::run(config, metrics, &readiness, stop.clone()));
        let role = Self { stop, task: Some(task), registry, readiness };
        let waiting = role.readiness.clone();
        world.runtime.block_on(async { tokio::time::timeout(PATIENCE, waiting.ready()).await }).unwrap();
        role
    }

    /// The value of a metric, 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.registry.encode().unwrap();
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(found, _)| found == name));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    /// Ends it in good order.
    pub fn stop(mut self, world: &World) {
        self.stop.cancel();
        let task = self.task.take().unwrap();
        let ended = world.runtime.block_on(async { tokio::time::timeout(PATIENCE, task).await });
        ended.unwrap().unwrap().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How a receiver answers a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16),
    /// With a header `Retry-After`, in seconds.
    Later(u16, u64),
    /// Never; but it has read the request.
    Hang,
    /// When it is allowed to.
    Gated,
    /// By what is in the body.
    Judge(fn(&Value) -> u16),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Came {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
    /// What it was answered; `None`: not yet, or never.
    pub status: Option<u16>,
}

struct Shared {
    script: VecDeque<Answer>,
    usual: Answer,
    came: Vec<Came>,
}

/// A receiver of alerts.
pub struct Hook {
    pub url: String,
    shared: Arc<Mutex<Shared>>,
    gate: watch::Sender<bool>,
}

impl Hook {
    /// Answers as usual, after what the script says.
    pub fn start(world: &World, script: &[Answer], usual: Answer) -> Self {
        let listener = world.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Shared { script: script.iter().cloned().collect(), usual, came: Vec::new() };
        let shared = Arc::new(Mutex::new(shared));
        let gate = watch::Sender::new(false);
        let (serving, gated) = (Arc::clone(&shared), gate.subscribe());
        world.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, gate) = (Arc::clone(&serving), gated.clone());
                let service = service_fn(move |request| answer(Arc::clone(&shared), gate.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, shared, gate }
    }

    pub fn usually(&self, answer: Answer) {
        self.shared.lock().usual = answer;
    }

    /// Lets gated requests be answered.
    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Every request so far.
    pub fn came(&self) -> Vec<Came> {
        self.shared.lock().came.clone()
    }

    /// Ids of the alerts that were taken, in order, `-` behind those that are resolved.
    pub fn taken(&self) -> Vec<String> {
        let came = self.came();
        let taken = came.iter().filter(|came| came.status.is_some_and(|status| status < 300));
        taken.flat_map(|came| ids(&came.body)).collect()
    }
}

/// Ids of the alerts in a request, `-` behind those that are resolved.
pub fn ids(body: &Value) -> Vec<String> {
    if let Some(alerts) = body.as_array() {
        let id = |alert: &Value| {
            let ends: jiff::Timestamp = alert["endsAt"].as_str().unwrap().parse().unwrap();
            let mark = if ends <= jiff::Timestamp::now() { "-" } else { "" };
            format!("{}{mark}", alert["labels"]["alert_id"].as_str().unwrap())
        };
        return alerts.iter().map(id).collect();
    }
    let id = |member: &Value| {
        let mark = if member["status"] == "resolved" { "-" } else { "" };
        format!("{}{mark}", member["alert"]["id"].as_str().unwrap())
    };
    body["alerts"].as_array().unwrap().iter().map(id).collect()
}

async fn answer(
    shared: Arc<Mutex<Shared>>,
    mut gate: watch::Receiver<bool>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let authorization =
        request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let Ok(body) = request.into_body().collect().await else {
        return Ok(Response::new(Full::default()));
    };
    let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
    let (index, answer) = {
        let mut shared = shared.lock();
        let usual = shared.usual.clone();
        let answer = shared.script.pop_front().unwrap_or(usual);
        shared.came.push(Came { path, authorization, body: body.clone(), status: None });
        (shared.came.len() - 1, answer)
    };
    let (status, after) = match answer {
        Answer::Status(status) => (status, None),
        Answer::Later(status, seconds) => (status, Some(seconds)),
        Answer::Judge(judge) => (judge(&body), None),
        Answer::Gated => {
            gate.wait_for(|open| *open).await.unwrap();
            (200, None)
        }
        Answer::Hang => std::future::pending().await,
    };
    shared.lock().came[index].status = Some(status);
    let mut response = Response::builder().status(status);
    if let Some(seconds) = after {
        response = response.header("retry-after", seconds);
    }
    Ok(response.body(Full::from("said the receiver")).unwrap())
}
