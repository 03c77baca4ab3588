//! CPU per record of producing and consuming, against a Kafka that is running: `throughput BROKERS [RECORDS]`.
//!
//! Prints one line a case: records, how many are kept outstanding, wall time, and CPU (user + system) of this process
//! per record. Compare builds with `--release` only. Creates a topic of 48 partitions and deletes it at the end.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use penstock_kafka::{
    ClientSettings, Consumer, ConsumerSettings, Outgoing, Polled, Producer, ProducerSettings, Receipt,
    SendError, TopicSpec, delete_topics, partition_for_key, provision, receipt,
};

const PARTITIONS: u32 = 48;
const DEVICES: usize = 10_000;
const PAYLOAD: [u8; 46] = [7; 46];
const PATIENCE: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::WARN).init();
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next().ok_or("usage: throughput BROKERS [RECORDS]")?;
    let records: usize = arguments.next().map_or(Ok(1_000_000), |count| count.parse())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    let name = format!("throughput-{now}");
    let client = ClientSettings { brokers, client_id: "throughput".into(), properties: BTreeMap::new() };
    let partitions = i32::try_from(PARTITIONS)?;
    let spec = TopicSpec { name: name.clone(), partitions, replication_factor: -1, ..TopicSpec::default() };
    provision(&client, &[spec], PATIENCE).await?;
    let result = measure(&client, &name, records).await;
    delete_topics(&client, &[&name], PATIENCE).await?;
    result
}

async fn measure(client: &ClientSettings, topic: &str, records: usize) -> Result<()> {
    let mut written = 0;
    for outstanding in [100, 1_000, 10_000] {
        let records = if outstanding < 1_000 { records / 10 } else { records };
        written += produce(client, topic, records, outstanding, false).await?;
    }
    written += produce(client, topic, records, 10_000, true).await?;
    written += paced(client, topic, 10_000, Duration::from_secs(10)).await?;
    for records_max in [1_000, 10_000] {
        consume(client, topic, written, records_max)?;
    }
    Ok(())
}

/// Keys of devices; `grouped`: neighbours share a partition.
fn devices(grouped: bool) -> Vec<[u8; 16]> {
    let mut keys: Vec<[u8; 16]> =
        (0..DEVICES as u128).map(|n| (n * 0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect();
    if grouped {
        keys.sort_by_key(|key| partition_for_key(key, PARTITIONS));
    }
    keys
}

async fn produce(
    client: &ClientSettings,
    name: &str,
    records: usize,
    outstanding: usize,
    grouped: bool,
) -> Result<usize> {
    let producer =
        Producer::new(client, &ProducerSettings { compression: "none".into(), ..Default::default() })?;
    let topic = producer.topic(name)?;
    let keys = devices(grouped);
    let mut window: VecDeque<Receipt> = VecDeque::with_capacity(outstanding);
    for key in keys.iter().cycle().take(outstanding) {
        window.push_back(send(&producer, &topic, key)?);
    }
    while let Some(receipt) = window.pop_front() {
        receipt.await?;
    }
    let clock = Clock::start();
    for key in keys.iter().cycle().take(records) {
        if window.len() == outstanding
            && let Some(receipt) = window.pop_front()
        {
            receipt.await?;
        }
        window.push_back(send(&producer, &topic, key)?);
    }
    while let Some(receipt) = window.pop_front() {
        receipt.await?;
    }
    let order = if grouped { ", grouped by partition" } else { "" };
    clock.report(&format!("produce, {outstanding} outstanding{order}"), records);
    Ok(records + outstanding)
}

/// A steady rate, in bursts of a millisecond.
async fn paced(client: &ClientSettings, name: &str, per_second: usize, duration: Duration) -> Result<usize> {
    let producer =
        Producer::new(client, &ProducerSettings { compression: "none".into(), ..Default::default() })?;
    let topic = producer.topic(name)?;
    let keys = devices(false);
    let mut latencies = hdrhistogram::Histogram::<u64>::new(3)?;
    let mut window: VecDeque<(Instant, Receipt)> = VecDeque::new();
    // Connecting is not measured.
    for key in &keys {
        window.push_back((Instant::now(), send(&producer, &topic, key)?));
    }
    for (_, receipt) in window.drain(..) {
        receipt.await?;
    }
    let mut keys = keys.iter().cycle();
    let mut records = 0;
    let clock = Clock::start();
    let begin = Instant::now();
    while begin.elapsed() < duration {
        let due = begin.elapsed().as_secs_f64() * per_second as f64;
        while (records as f64) < due {
            let Some(key) = keys.next() else { break };
            window.push_back((Instant::now(), send(&producer, &topic, key)?));
            records += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        while let Some((sent, receipt)) = window.front_mut()
            && let Some(result) = receipt.try_result()
        {
            result?;
            latencies.record(u64::try_from(sent.elapsed().as_micros())?)?;
            window.pop_front();
        }
    }
    for (_, receipt) in window {
        receipt.await?;
    }
    clock.report(&format!("produce, {per_second}/s"), records);
    println!(
        "  receipts after: p50 {} us, p99 {} us",
        latencies.value_at_quantile(0.5),
        latencies.value_at_quantile(0.99)
    );
    Ok(records + DEVICES)
}

fn send(producer: &Producer, topic: &penstock_kafka::Topic, key: &[u8]) -> Result<Receipt> {
    let record = Outgoing {
        topic,
        key: Some(key),
        payload: &PAYLOAD,
        timestamp_ms: Some(1_700_000_000_000),
        headers: &[],
        partition: None,
    };
    let (completion, receipt) = receipt();
    producer.send(record, completion).map_err(|error| match error {
        SendError::QueueFull(_) => "the queue is full".to_owned(),
        SendError::Permanent { error, .. } => error.to_string(),
    })?;
    Ok(receipt)
}

fn consume(client: &ClientSettings, topic: &str, records: usize, records_max: usize) -> Result<()> {
    let settings = ConsumerSettings {
        group: format!("{topic}-{records_max}"),
        topics: vec![topic.to_owned()],
        fetch_bytes_max: 64 << 20,
        session_timeout_ms: 10_000,
        instance_id: None,
        read_committed: false,
    };
    let mut consumer = Consumer::subscribe(client, &settings)?;
    let mut clock = None;
    let (mut seen, mut polls, mut bytes) = (0, 0, 0);
    while seen < records {
        let assigned = match consumer.poll(records_max, Duration::from_secs(1))? {
            Polled::Records(batch) => {
                polls += 1;
                seen += batch.len();
                bytes += batch
                    .iter()
                    .map(|record| record.payload.len() + record.key.map_or(0, <[u8]>::len))
                    .sum::<usize>();
                continue;
            }
            Polled::Idle => continue,
            Polled::Assigned(partitions) => partitions,
            Polled::Revoked { partitions, .. } => return Err(format!("{partitions:?} were revoked").into()),
        };
        consumer.assign_done(&assigned)?;
        clock = Some(Clock::start());
    }
    if let Some(clock) = clock {
        clock.report(&format!("consume, at most {records_max} a poll"), seen);
        println!("  {} records a poll, {} bytes a record", seen / polls, bytes / seen);
    }
    consumer.leave(Instant::now() + Duration::from_secs(30))?;
    Ok(())
}

struct Clock {
    wall: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    fn report(&self, what: &str, records: usize) {
        let (wall, cpu) = (self.wall.elapsed(), cpu().saturating_sub(self.cpu));
        println!(
            "{what:45} {records:>9} records {:>9.0}/s {:>7.3} us CPU a record",
            records as f64 / wall.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / records as f64
        );
    }
}

/// User and system time of this process.
fn cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
            let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
            Duration::from_secs(seconds) + Duration::from_micros(micros)
        })
        .sum()
}
