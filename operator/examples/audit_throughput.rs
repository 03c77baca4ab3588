//! How quickly an audit goes through offsets: `audit_throughput [RECORDS]`, by default 6,000,000. Compare builds with
//! `--release` only.
//!
//! Starts a Kafka and a ClickHouse of its own, fills the readings topic and the table with as many records and rows,
//! each row at the offset of its record, commits the writer's offsets, and audits three times, each in a process of its
//! own. Prints the report of each and the greatest memory of its process.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::error::Error;
use std::fs;
use std::io::stdout;
use std::process::Command;
use std::time::Duration;

use penstock_devstack::{Stack, StackOptions};
use penstock_kafka::{
    ClientSettings, Consumer, ConsumerSettings, Outgoing, Polled, Producer, ProducerSettings, SendError,
    TopicPartition, provision, receipt, topic_specs,
};
use penstock_operator::audit::Audit;
use penstock_proto::topics::READINGS;
use penstock_proto::v1::SensorReading;
use penstock_service::Config;
use penstock_storage_writer::clickhouse::Client;
use penstock_storage_writer::migrations;
use prost::Message;

const PARTITIONS: u64 = 48;
const PATIENCE: Duration = Duration::from_secs(120);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => fill_and_audit(6_000_000),
        [records] => fill_and_audit(records.parse()?),
        ["audit", brokers, url] => audit(&config(brokers, url)),
        _ => Err("usage: audit_throughput [RECORDS]".into()),
    }
}

fn config(brokers: &str, url: &str) -> Config {
    let mut config = Config::default();
    config.kafka.brokers = brokers.to_owned();
    config.clickhouse.url = url.to_owned();
    config
}

fn fill_and_audit(records: u64) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let stack = Stack::start(&StackOptions::default())?;
    let (brokers, url) = (stack.kafka.brokers(), stack.clickhouse.http_url());
    let config = config(&brokers, &url);
    let client = ClientSettings {
        brokers: brokers.clone(),
        client_id: "audit-throughput".into(),
        properties: config.kafka.properties.clone(),
    };
    runtime.block_on(provision(&client, &topic_specs("", -1), PATIENCE))?;
    let clickhouse = Client::new(&config.clickhouse)?;
    runtime.block_on(migrations::migrate(&clickhouse, &config.clickhouse))?;
    runtime.block_on(produce(&client, records))?;
    for partition in 0..PARTITIONS {
        let rows = (records + PARTITIONS - 1 - partition) / PARTITIONS;
        runtime.block_on(clickhouse.query(&insert(partition, rows)))?;
    }
    commit(&client, &config.writer.group, records)?;
    eprintln!("{records} records and rows are there");
    for _ in 0..3 {
        let ended = Command::new(std::env::current_exe()?).args(["audit", &brokers, &url]).status()?;
        if !ended.success() {
            return Err("the audit failed".into());
        }
    }
    Ok(())
}

fn audit(config: &Config) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let audit = Audit { from: None, to: None, breaches_max: 10 };
    let report = audit.run(config, runtime.handle())?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    report.print(&mut stdout().lock())?;
    println!("{:.0} offsets/s, {peak}", report.offsets as f64 / report.seconds);
    if report.holds { Ok(()) } else { Err("what was filled in does not hold".into()) }
}

fn insert(partition: u64, rows: u64) -> String {
    format!(
        "INSERT INTO penstock.readings (device_id, timestamp, sequence, received_at, kafka_partition, kafka_offset) \
         SELECT reinterpretAsUUID(toUInt128({partition} * 1000 + number % 200)), \
         fromUnixTimestamp64Milli(toInt64(1790000000000 + number), 'UTC'), number, now64(3), {partition}, number \
         FROM numbers({rows})"
    )
}

/// Records of about the size that devices send, in turn over all partitions.
async fn produce(client: &ClientSettings, records: u64) -> Result<()> {
    let producer = Producer::new(
        client,
        &ProducerSettings { linger_ms: 50, delivery_timeout_ms: 600_000, ..Default::default() },
    )?;
    let topic = producer.topic(READINGS)?;
    let (completion, receipt) = receipt();
    for number in 0..records {
        let key = u128::from(number % 10_000).to_be_bytes();
        let reading = SensorReading {
            device_id: key.to_vec(),
            timestamp: 1_790_000_000_000 + i64::try_from(number)?,
            temperature: Some(20.5),
            sequence: number,
            ..Default::default()
        };
        let payload = reading.encode_to_vec();
        let record = Outgoing {
            topic: &topic,
            key: Some(&key),
            payload: &payload,
            timestamp_ms: None,
            headers: &[],
            partition: Some(i32::try_from(number % PARTITIONS)?),
        };
        let mut completed = completion.clone();
        while let Err(error) = producer.send(record, completed) {
            match error {
                SendError::QueueFull(back) => completed = back,
                SendError::Permanent { error, .. } => return Err(error.into()),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    completion.complete(Ok(()));
    Ok(receipt.await?)
}

/// Commits as the writer would after it has stored everything.
fn commit(client: &ClientSettings, group: &str, records: u64) -> Result<()> {
    let settings = ConsumerSettings {
        group: group.to_owned(),
        topics: vec![READINGS.to_owned()],
        fetch_bytes_max: 1 << 20,
        session_timeout_ms: 10_000,
        instance_id: None,
        read_committed: true,
    };
    let mut consumer = Consumer::subscribe(client, &settings)?;
    let assigned = loop {
        if let Polled::Assigned(partitions) = consumer.poll(1, Duration::from_millis(100))? {
            break partitions;
        }
    };
    consumer.assign_done(&assigned)?;
    let mut next = Vec::new();
    for partition in 0..PARTITIONS {
        let offset = (records + PARTITIONS - 1 - partition) / PARTITIONS;
        next.push((TopicPartition::new(READINGS, i32::try_from(partition)?), i64::try_from(offset)?));
    }
    Ok(consumer.commit_sync(&next, PATIENCE)?)
}
