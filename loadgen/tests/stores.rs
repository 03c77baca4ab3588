//! The verifier and the probe's queries against a real Kafka and a real ClickHouse, with planted differences.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use penstock_devstack::Stack;
use penstock_kafka::{
    ClientSettings, Outgoing, Producer, ProducerSettings, Receipt, TopicSpec, provision, receipt,
};
use penstock_loadgen::verify::{Difference, Expectation, ReadingName, Verification, verify};
use penstock_loadgen::{ClickHouseTarget, DeviceLedger, Entry, KafkaTarget, Ledger, Outcome};
use penstock_proto::topics::{self, header};
use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, Reason};
use penstock_service::Secret;
use prost::Message as _;

const DEVICES: u8 = 3;
const READINGS: u64 = 200;
const FIRST: u64 = 10;

/// Devices 0 to 2 with 200 acknowledged readings each; the last reading of each was too old and is a dead letter.
/// The third reading of device 2 was sent twice.
fn ledger(started_at_ms: i64) -> Ledger {
    let device = |index: u8| {
        let mut device = DeviceLedger::new(DeviceId::from_bytes([index; 16]), FIRST);
        device.entries = (0..READINGS)
            .map(|position| Entry {
                timestamp_ms: started_at_ms + i64::try_from(position).unwrap(),
                sent_us: 1,
                acked_us: 2,
                sends: if index == 2 && position == 2 { 2 } else { 1 },
                outcome: if position == READINGS - 1 { Outcome::DeadLettered } else { Outcome::Acknowledged },
                invalid: (position == READINGS - 1).then_some(Reason::TooOld),
            })
            .collect();
        device
    };
    Ledger { started_at_ms, devices: (0..DEVICES).map(device).collect() }
}

struct Stores {
    stack: Stack,
    kafka: KafkaTarget,
    clickhouse: ClickHouseTarget,
    producer: Producer,
    offsets: AtomicU64,
}

impl Stores {
    async fn start() -> Self {
        let stack = Stack::start_async(Default::default()).await.unwrap();
        let settings = ClientSettings {
            brokers: stack.kafka.brokers(),
            client_id: "test".into(),
            properties: BTreeMap::new(),
        };
        let kafka = KafkaTarget { settings: settings.clone(), topic_prefix: "planted.".into() };
        let topic = |name: &str, partitions| TopicSpec {
            name: format!("planted.{name}"),
            partitions,
            replication_factor: 1,
            ..TopicSpec::default()
        };
        let topics = [topic(topics::READINGS, 4), topic(topics::READINGS_DLQ, 2)];
        provision(&settings, &topics, Duration::from_secs(30)).await.unwrap();
        let clickhouse = ClickHouseTarget {
            url: stack.clickhouse.http_url(),
            database: "planted".into(),
            user: "default".into(),
            password: Secret::from(""),
        };
        let producer = Producer::new(&settings, &ProducerSettings::default()).unwrap();
        let stores = Self { stack, kafka, clickhouse, producer, offsets: AtomicU64::new(0) };
        // The columns the verifier looks at, in the engine of the real table. Merges would take the duplicates away.
        for sql in [
            "CREATE DATABASE planted",
            "CREATE TABLE planted.readings (device_id UUID, timestamp DateTime64(3, 'UTC'), sequence UInt64,
             kafka_partition UInt16, kafka_offset UInt64)
             ENGINE = ReplacingMergeTree ORDER BY (device_id, timestamp, sequence)",
            "CREATE VIEW planted.readings_unique AS SELECT * FROM planted.readings FINAL",
            "SYSTEM STOP MERGES planted.readings",
        ] {
            stores.sql(sql).await;
        }
        stores
    }

    fn next_offset(&self) -> u64 {
        self.offsets.fetch_add(1, Ordering::Relaxed)
    }

    async fn sql(&self, sql: &str) {
        let (clickhouse, sql) = (self.stack.clickhouse.clone(), sql.to_owned());
        tokio::task::spawn_blocking(move || clickhouse.query(&sql)).await.unwrap().unwrap();
    }

    fn produce(&self, topic: &str, device: DeviceId, payload: &[u8], headers: &[(&str, &[u8])]) -> Receipt {
        let topic = self.producer.topic(&format!("planted.{topic}")).unwrap();
        let (completion, delivered) = receipt();
        let record = Outgoing {
            topic: &topic,
            key: Some(device.as_bytes()),
            payload,
            timestamp_ms: None,
            headers,
            partition: None,
        };
        assert!(self.producer.send(record, completion).is_ok());
        delivered
    }

    fn record(&self, ledger: &Ledger, device: usize, position: u64) -> Receipt {
        let device = &ledger.devices[device];
        let timestamp = device.entries[usize::try_from(position).unwrap()].timestamp_ms;
        let reading = SensorReading { timestamp, sequence: FIRST + position, ..Default::default() };
        self.produce(topics::READINGS, device.device, &reading.encode_to_vec(), &[])
    }

    fn dead_letter(&self, ledger: &Ledger, device: usize, position: u64) -> Receipt {
        let device = &ledger.devices[device];
        let timestamp = device.entries[usize::try_from(position).unwrap()].timestamp_ms;
        let reading = SensorReading { timestamp, sequence: FIRST + position, ..Default::default() };
        let topic = topics::readings_topic(device.device);
        let headers =
            [(header::REASON, Reason::TooOld.name().as_bytes()), (header::MQTT_TOPIC, topic.as_bytes())];
        self.produce(topics::READINGS_DLQ, device.device, &reading.encode_to_vec(), &headers)
    }

    /// Rows of these readings (device, position).
    async fn rows(&self, ledger: &Ledger, readings: &[(usize, u64)]) {
        let row = |(index, position): &(usize, u64)| {
            let device = &ledger.devices[*index];
            let ms = device.entries[usize::try_from(*position).unwrap()].timestamp_ms;
            let (id, sequence) = (device.device, FIRST + position);
            format!("('{id}', fromUnixTimestamp64Milli({ms}, 'UTC'), {sequence}, 1, {})", self.next_offset())
        };
        let rows: Vec<_> = readings.iter().map(row).collect();
        self.sql(&format!("INSERT INTO planted.readings VALUES {}", rows.join(", "))).await;
    }

    async fn verify(&self, ledger: &Arc<Ledger>, unique_table: Option<&str>) -> Verification {
        let expectation = Expectation {
            kafka: Some(self.kafka.clone()),
            clickhouse: Some(self.clickhouse.clone()),
            deadline: Duration::from_secs(30),
            stall: Duration::from_secs(2),
            unique_table: unique_table.map(str::to_owned),
        };
        verify(ledger, &expectation, |_| ()).await.unwrap()
    }
}

fn all_valid() -> Vec<(usize, u64)> {
    (0..READINGS - 1)
        .flat_map(|position| (0..usize::from(DEVICES)).map(move |device| (device, position)))
        .collect()
}

fn name(ledger: &Ledger, device: usize, position: u64) -> ReadingName {
    let device = &ledger.devices[device];
    let timestamp_ms = device.entries[usize::try_from(position).unwrap()].timestamp_ms;
    ReadingName { device: device.device, sequence: FIRST + position, timestamp_ms }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_differences_are_found_in_a_real_kafka_and_a_real_clickhouse() {
    let stores = Stores::start().await;
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let ledger = Arc::new(ledger(i64::try_from(now_ms).unwrap()));

    // Kafka lacks one reading, holds two of device 1 in the wrong order, and the one that was sent twice, twice.
    let mut records = all_valid();
    records.retain(|reading| *reading != (0, 7));
    let (a, b) = (position(&records, (1, 20)), position(&records, (1, 21)));
    records.swap(a, b);
    records.push((2, 2));
    let mut receipts: Vec<_> =
        records.iter().map(|(device, position)| stores.record(&ledger, *device, *position)).collect();
    // One dead letter of device 2 is lacking.
    receipts.extend((0..2).map(|device| stores.dead_letter(&ledger, device, READINGS - 1)));
    for receipt in receipts {
        receipt.await.unwrap();
    }

    // ClickHouse lacks two, one of them the one Kafka lacks; has one twice; and the one that was sent twice, twice.
    let mut rows = all_valid();
    rows.retain(|reading| ![(0, 7), (1, 100)].contains(reading));
    stores.rows(&ledger, &rows).await;
    stores.rows(&ledger, &[(0, 50), (2, 2)]).await;

    let found = stores.verify(&ledger, Some("readings_unique")).await;
    let expected = [
        Difference::MissingInKafka(name(&ledger, 0, 7)),
        Difference::MissingDeadLetter(name(&ledger, 2, READINGS - 1), Reason::TooOld),
        Difference::MissingInClickHouse(name(&ledger, 0, 7)),
        Difference::DuplicateRows(name(&ledger, 0, 50), 2),
        Difference::MissingInClickHouse(name(&ledger, 1, 100)),
    ];
    let (disorder, others): (Vec<_>, Vec<_>) =
        found.differences.first.iter().cloned().partition(|difference| difference.kind() == "out-of-order");
    assert_eq!(others, expected);
    assert!(
        matches!(&disorder[..], [Difference::OutOfOrder { reading, after, .. }] if *reading == name(&ledger, 1, 20) && *after == FIRST + 21),
        "{disorder:?}"
    );
    let counts = (found.missing, found.missing_in_kafka, found.missing_in_clickhouse, found.out_of_order);
    assert_eq!(counts, (2, 1, 2, 1));
    assert_eq!((found.duplicates, found.rows_of_resent), (1, 1));
    assert_eq!((found.kafka_records, found.stored_rows), (Some(597), Some(597)));
    assert_eq!(found.dead_letters_stored, BTreeMap::from([("too-old", 2)]));

    // What was lacking comes; strictly seen, the reading that was sent twice is a row too many.
    stores.rows(&ledger, &[(0, 7), (1, 100)]).await;
    let found = stores.verify(&ledger, None).await;
    assert_eq!((found.missing_in_clickhouse, found.duplicates), (0, 2));
    assert!(!found.is_ok());

    // A record that is stored twice.
    stores.sql("INSERT INTO planted.readings SELECT * FROM planted.readings LIMIT 1").await;
    assert_eq!(stores.verify(&ledger, None).await.duplicate_offsets, 1);
}

fn position(readings: &[(usize, u64)], reading: (usize, u64)) -> usize {
    readings.iter().position(|other| *other == reading).unwrap()
}
