//! What the tests against a real Kafka share: one Kafka a test binary, topics of their own, a member that answers
//! rebalances.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test binary uses another part")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use penstock_devstack::{Kafka, KafkaOptions};
use penstock_kafka::{
    ClientSettings, Consumer, ConsumerSettings, DeliveryError, Outgoing, Polled, Producer, ProducerSettings,
    Receipt, ScanFrom, Scanner, Topic, TopicPartition, TopicSpec, TransactionRecord, TransactionSettings,
    TransactionalProducer, provision, receipt,
};
use tokio::runtime::Runtime;

/// Longest wait for a state.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub static KAFKA: LazyLock<Kafka> = LazyLock::new(|| Kafka::start(&KafkaOptions::default()).unwrap());
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

pub fn client_at(brokers: &str) -> ClientSettings {
    ClientSettings { brokers: brokers.into(), client_id: "penstock-test".into(), properties: BTreeMap::new() }
}

pub fn client() -> ClientSettings {
    client_at(&KAFKA.brokers())
}

/// A name that no other test, and no earlier run, has.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    format!("{name}-{}-{now}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn spec(name: &str, partitions: i32) -> TopicSpec {
    TopicSpec { name: name.into(), partitions, replication_factor: -1, ..TopicSpec::default() }
}

/// Creates a topic of its own.
pub fn topic(name: &str, partitions: i32) -> String {
    let name = unique(name);
    block_on(provision(&client(), &[spec(&name, partitions)], PATIENCE)).unwrap();
    name
}

pub fn producer() -> Producer {
    Producer::new(&client(), &ProducerSettings::default()).unwrap()
}

pub fn record<'a>(topic: &'a Topic, partition: i32, payload: &'a [u8]) -> Outgoing<'a> {
    Outgoing {
        topic,
        key: Some(b"key"),
        payload,
        timestamp_ms: None,
        headers: &[],
        partition: Some(partition),
    }
}

pub fn send(producer: &Producer, record: Outgoing<'_>) -> Receipt {
    let (completion, receipt) = receipt();
    producer.send(record, completion).unwrap();
    receipt
}

pub fn resolve(receipt: Receipt) -> Result<(), DeliveryError> {
    block_on(async { tokio::time::timeout(PATIENCE, receipt).await }).expect("a receipt must resolve")
}

/// Writes `count` records to every partition, numbered from `from`, and waits for all of them.
pub fn fill(producer: &Producer, topic: &str, partitions: i32, from: u32, count: u32) {
    let topic = producer.topic(topic).unwrap();
    let mut receipts = Vec::new();
    for partition in 0..partitions {
        for number in from..from + count {
            receipts.push(send(producer, record(&topic, partition, number.to_string().as_bytes())));
        }
    }
    for receipt in receipts {
        resolve(receipt).unwrap();
    }
}

/// Opens a producer of transactions.
pub fn transactional(id: &str) -> TransactionalProducer {
    let settings = TransactionSettings { transactional_id: id.into(), ..TransactionSettings::default() };
    TransactionalProducer::open(&client(), &settings, PATIENCE).unwrap()
}

/// A record for partition 0.
pub fn plain<'a>(topic: &'a str, payload: &'a str) -> TransactionRecord<'a> {
    TransactionRecord { partition: Some(0), ..TransactionRecord::new(topic, payload.as_bytes()) }
}

/// Payloads of a topic as it is now, by partition and offset.
pub fn payloads(topic: &str, read_committed: bool) -> Vec<String> {
    let begin = Instant::now();
    let mut scanner = Scanner::open(&client(), topic, &ScanFrom::Beginning, read_committed).unwrap();
    let mut found = Vec::new();
    while let Some(batch) = scanner.next_batch(1_000, Duration::from_millis(200)).unwrap() {
        assert!(begin.elapsed() < PATIENCE, "the scan does not end");
        found.extend(batch.iter().map(|record| {
            let payload = String::from_utf8_lossy(record.payload).into_owned();
            (record.partition, record.offset, payload)
        }));
    }
    found.sort();
    found.into_iter().map(|(_, _, payload)| payload).collect()
}

/// What readers of committed records see, once no transaction is open in the topic.
pub fn committed_payloads(topic: &str) -> Vec<String> {
    assert!(settles(topic, PATIENCE), "a transaction stays open in {topic}");
    payloads(topic, true)
}

/// Whether no transaction is open in the topic any more within `patience`: markers are written a little after a commit or
/// an abort is answered.
pub fn settles(topic: &str, patience: Duration) -> bool {
    let begin = Instant::now();
    let ends = |read_committed| {
        let scanner = Scanner::open(&client(), topic, &ScanFrom::Beginning, read_committed).unwrap();
        scanner.remaining().collect::<Vec<_>>()
    };
    while ends(true) != ends(false) {
        if begin.elapsed() >= patience {
            return false;
        }
    }
    true
}

pub fn group_settings(group: &str, topic: &str) -> ConsumerSettings {
    ConsumerSettings {
        group: group.into(),
        topics: vec![topic.into()],
        fetch_bytes_max: 8 << 20,
        session_timeout_ms: 10_000,
        instance_id: None,
        read_committed: false,
    }
}

enum Rebalance {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>, bool),
}

/// A member of a group as a role would drive it: it commits what it has before it gives partitions up.
pub struct Member {
    pub consumer: Consumer,
    pub assigned: BTreeSet<TopicPartition>,
    /// Next offset of each partition, of records handed out since it was assigned.
    pub next: BTreeMap<TopicPartition, i64>,
    /// Partition, offset and payload of every record handed out.
    pub seen: Vec<(i32, i64, String)>,
    pub revocations: usize,
}

impl Member {
    pub fn join(group: &str, topic: &str) -> Self {
        Self::with(Consumer::subscribe(&client(), &group_settings(group, topic)).unwrap())
    }

    pub fn with(consumer: Consumer) -> Self {
        Self { consumer, assigned: BTreeSet::new(), next: BTreeMap::new(), seen: Vec::new(), revocations: 0 }
    }

    /// Polls once and answers what comes.
    pub fn step(&mut self) {
        let rebalance = match self.consumer.poll(500, Duration::from_millis(50)).unwrap() {
            Polled::Idle => return,
            Polled::Records(batch) => {
                for record in &batch {
                    let partition = TopicPartition::new(record.topic, record.partition);
                    assert!(
                        self.assigned.contains(&partition),
                        "a record of {partition}, which is not assigned"
                    );
                    self.next.insert(partition, record.offset + 1);
                    let payload = String::from_utf8(record.payload.to_vec()).unwrap();
                    self.seen.push((record.partition, record.offset, payload));
                }
                return;
            }
            Polled::Assigned(partitions) => Rebalance::Assigned(partitions),
            Polled::Revoked { partitions, lost } => Rebalance::Revoked(partitions, lost),
        };
        match rebalance {
            Rebalance::Assigned(partitions) => {
                self.assigned.extend(partitions.iter().cloned());
                self.consumer.assign_done(&partitions).unwrap();
            }
            Rebalance::Revoked(partitions, lost) => self.give_up(&partitions, lost),
        }
    }

    fn give_up(&mut self, partitions: &[TopicPartition], lost: bool) {
        assert!(!lost, "{partitions:?} are lost");
        self.revocations += 1;
        let mut offsets = Vec::new();
        for partition in partitions {
            assert!(self.assigned.remove(partition), "{partition} is revoked but was not assigned");
            offsets.extend(self.next.remove(partition).map(|next| (partition.clone(), next)));
        }
        self.consumer.commit_sync(&offsets, PATIENCE).unwrap();
        self.consumer.revoke_done(partitions).unwrap();
    }

    /// Steps until something is so.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !is_so(self) {
            assert!(begin.elapsed() < PATIENCE, "waited too long until {what}");
            self.step();
        }
    }

    /// Leaves the group in good order.
    pub fn leave(&mut self) {
        self.consumer.begin_close().unwrap();
        self.until("the group is left", |member| member.consumer.is_closed());
        assert!(self.assigned.is_empty(), "the last partitions must be revoked before the group is left");
    }
}
