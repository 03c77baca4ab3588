//! One Kafka and one ClickHouse a test binary; topics, a group and a database a test; the real program.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_devstack::{Stack, StackOptions};
use penstock_kafka::{
    ClientSettings, Consumer, ConsumerSettings, KafkaError, Outgoing, Producer, ProducerSettings, Receipt,
    ScanFrom, Scanner, TopicPartition, provision, receipt, topic_specs,
};
use penstock_proto::DeviceId;
use penstock_proto::topics::{READINGS_DLQ, STORAGE_FAILURES, header};
use penstock_proto::v1::SensorReading;
use tempfile::TempDir;
use uuid::Uuid;

/// No state is waited for longer than this.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const NOW_MS: i64 = 1_790_000_000_000;

fn stack() -> &'static Stack {
    static STACK: OnceLock<Stack> = OnceLock::new();
    STACK.get_or_init(|| Stack::start(&StackOptions::default()).unwrap())
}

/// What one test has of its own.
pub struct World {
    pub prefix: String,
    pub database: String,
    dir: TempDir,
    runtime: tokio::runtime::Runtime,
    receipts: Vec<Receipt>,
    producer: Producer,
}

/// A record as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Vec<u8>,
    pub payload: Vec<u8>,
    pub headers: Vec<(String, String)>,
}

impl Stored {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl World {
    pub fn new() -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let (prefix, database) = (format!("t{}.", &id[..12]), format!("t{}", &id[..12]));
        let producer = Producer::new(&client(), &ProducerSettings::default()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let world = Self {
            prefix,
            database,
            dir: tempfile::tempdir().unwrap(),
            runtime,
            receipts: Vec::new(),
            producer,
        };
        world.runtime.block_on(provision(&client(), &topic_specs(&world.prefix, -1), PATIENCE)).unwrap();
        world
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub fn group(&self) -> String {
        format!("{}writer", self.prefix)
    }

    fn config(&self) -> PathBuf {
        let file = self.dir.path().join("penstock.toml");
        let text = format!(
            "kafka.brokers = {:?}\nkafka.topic_prefix = {:?}\nwriter.group = {:?}\nclickhouse.url = {:?}\n\
             clickhouse.database = {:?}\ntelemetry.admin_listen = \"127.0.0.1:0\"\n",
            stack().kafka.brokers(),
            self.prefix,
            self.group(),
            stack().clickhouse.http_url(),
            self.database,
        );
        fs::write(&file, text).unwrap();
        file
    }

    /// Adds a record; [`Self::delivered`] waits for it.
    pub fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: &[(&str, &[u8])],
    ) {
        let topic = self.producer.topic(&self.topic(topic)).unwrap();
        let record = Outgoing { topic: &topic, key, payload, timestamp_ms: None, headers, partition };
        let (completion, receipt) = receipt();
        self.producer.send(record, completion).unwrap();
        self.receipts.push(receipt);
    }

    pub fn delivered(&mut self) {
        for receipt in self.receipts.drain(..) {
            self.runtime.block_on(receipt).unwrap();
        }
    }

    /// A dead letter as the gateway writes it.
    pub fn refused_reading(&mut self, device: DeviceId, payload: &[u8], reason: &str, is_batch: bool) {
        let topic = format!("devices/{device}/readings{}", if is_batch { "/batch" } else { "" });
        let received = NOW_MS.to_string();
        let headers: [(&str, &[u8]); 5] = [
            (header::REASON, reason.as_bytes()),
            (header::DETAIL, b"as the test says"),
            (header::MQTT_TOPIC, topic.as_bytes()),
            (header::CLIENT_ID, b"test-client"),
            (header::RECEIVED_AT, received.as_bytes()),
        ];
        self.send(READINGS_DLQ, None, Some(device.as_bytes()), payload, &headers);
    }

    /// A dead letter as the writer writes it.
    pub fn refused_record(&mut self, key: Option<&[u8]>, payload: &[u8], source: (i32, i64)) {
        self.refused_record_of(penstock_proto::topics::READINGS, key, payload, source);
    }

    /// The same for a record of another topic.
    pub fn refused_record_of(&mut self, topic: &str, key: Option<&[u8]>, payload: &[u8], source: (i32, i64)) {
        let (topic, partition, offset) = (self.topic(topic), source.0.to_string(), source.1.to_string());
        let headers: [(&str, &[u8]); 5] = [
            (header::REASON, b"undecodable"),
            (header::DETAIL, b"as the test says"),
            (header::SOURCE_TOPIC, topic.as_bytes()),
            (header::SOURCE_PARTITION, partition.as_bytes()),
            (header::SOURCE_OFFSET, offset.as_bytes()),
        ];
        self.send(STORAGE_FAILURES, None, key, payload, &headers);
    }

    /// Every committed record of a topic.
    pub fn records(&self, topic: &str) -> Vec<Stored> {
        let mut scanner = Scanner::open(&client(), &self.topic(topic), &ScanFrom::Beginning, true).unwrap();
        let mut found = Vec::new();
        while let Some(batch) = scanner.next_batch(1_000, Duration::from_secs(10)).unwrap() {
            found.extend(batch.iter().map(|record| {
                Stored {
                    partition: record.partition,
                    offset: record.offset,
                    timestamp_ms: record.timestamp_ms,
                    key: record.key.unwrap_or_default().to_vec(),
                    payload: record.payload.to_vec(),
                    headers: record
                        .headers()
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
                        .collect(),
                }
            }));
        }
        found
    }

    /// Every committed record of a topic, after no transaction is open there any more: readers see what is committed
    /// some milliseconds after the commit.
    pub fn settled(&self, topic: &str, partitions: i32) -> Vec<Stored> {
        let (written, readable) = (self.watcher(topic, partitions), self.reader(topic, partitions, true));
        until("no transaction is open", || written() == readable());
        self.records(topic)
    }

    /// Someone who can be asked for the sum of the watermarks.
    pub fn watcher(&self, topic: &str, partitions: i32) -> impl Fn() -> i64 + use<> {
        self.reader(topic, partitions, false)
    }

    fn reader(&self, topic: &str, partitions: i32, read_committed: bool) -> impl Fn() -> i64 + use<> {
        let settings = ConsumerSettings {
            group: "watcher".into(),
            topics: vec![format!("{}no-such-topic", self.prefix)],
            fetch_bytes_max: 1 << 20,
            session_timeout_ms: 10_000,
            instance_id: None,
            read_committed,
        };
        let consumer = Consumer::subscribe(&client(), &settings).unwrap();
        let topic = self.topic(topic);
        move || {
            let high = |partition| {
                let partition = TopicPartition::new(topic.as_str(), partition);
                asked(|| consumer.watermarks(&partition, PATIENCE)).1
            };
            (0..partitions).map(high).sum()
        }
    }

    pub fn spawn(&self, arguments: &[&str]) -> Process {
        let test = std::env::current_exe().unwrap();
        let program = test.ancestors().nth(2).unwrap().join("penstock");
        assert!(program.exists(), "{} is missing: cargo build --bin penstock", program.display());
        let mut command = Command::new(program);
        command.args(arguments).arg("--config").arg(self.config());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        die_with_parent(&mut command);
        Process(Some(command.spawn().unwrap()))
    }

    /// Runs the program to its end: exit code, standard output, standard error.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.spawn(arguments).end()
    }

    /// The JSON that a command prints, and its exit code.
    pub fn json(&self, arguments: &[&str]) -> (i32, serde_json::Value) {
        let (code, out, err) = self.run(arguments);
        let value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?}: {out}\n{err}"));
        (code, value)
    }

    pub fn sql(&self, sql: &str) -> String {
        let sql = sql.replace("{db}", &self.database);
        stack().clickhouse.query(&sql).unwrap_or_else(|error| panic!("{sql}: {error}")).trim().to_owned()
    }

    /// Lets a writer store everything that is there, then stops it in good order.
    pub fn write_all(&self) {
        let (code, _, err) = self.run(&["migrate"]);
        assert_eq!(code, 0, "{err}");
        let mut writer = self.spawn(&["run", "writer"]);
        let topic = self.topic(penstock_proto::topics::READINGS);
        let settings = ConsumerSettings {
            group: self.group(),
            topics: vec![format!("{}no-such-topic", self.prefix)],
            fetch_bytes_max: 1 << 20,
            session_timeout_ms: 10_000,
            instance_id: None,
            read_committed: false,
        };
        let asker = Consumer::subscribe(&client(), &settings).unwrap();
        let partitions: Vec<_> = (0..48).map(|number| TopicPartition::new(topic.as_str(), number)).collect();
        until("the writer has committed everything", || {
            assert!(writer.is_running(), "the writer ended");
            let Ok(committed) = asker.committed(&partitions, Duration::from_secs(5)) else { return false };
            committed.iter().all(|(partition, offset)| {
                let (low, high) = asked(|| asker.watermarks(partition, PATIENCE));
                low == high || *offset == Some(high)
            })
        });
        writer.signal(Signal::SIGTERM);
        let (code, out, err) = writer.end();
        assert_eq!(code, 0, "{out}{err}");
    }
}

pub fn client() -> ClientSettings {
    ClientSettings {
        brokers: stack().kafka.brokers(),
        client_id: "test".to_owned(),
        properties: Default::default(),
    }
}

pub fn device(number: u32) -> DeviceId {
    let mut bytes = [0xd0; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    DeviceId::from_bytes(bytes)
}

pub fn reading(sequence: u64) -> SensorReading {
    let timestamp = NOW_MS + i64::try_from(sequence).unwrap() * 1_000;
    SensorReading { timestamp, temperature: Some(20.5), sequence, ..Default::default() }
}

/// Waits for a state, with a deadline.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Asks Kafka until it answers: a partition of a topic that was just created can be without a leader for a while.
fn asked<T>(ask: impl Fn() -> Result<T, KafkaError>) -> T {
    let mut answer = None;
    until("Kafka answers", || match ask() {
        Ok(found) => {
            answer = Some(found);
            true
        }
        Err(error) => {
            assert!(error.is_transient(), "{error}");
            false
        }
    });
    answer.unwrap()
}

/// A running program; killed when dropped, and by the kernel when the test's thread ends.
pub struct Process(Option<Child>);

impl Process {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child().try_wait().unwrap().is_none()
    }

    pub fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child().id()).unwrap()), signal).unwrap();
    }

    /// Waits for the end: exit code (-1 after a signal), standard output, standard error.
    pub fn end(mut self) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.0.take().unwrap().wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[allow(unsafe_code, reason = "only between fork and exec can a child ask to die with its parent")]
fn die_with_parent(command: &mut Command) {
    let ask = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this makes one, prctl.
    unsafe { command.pre_exec(ask) };
}
