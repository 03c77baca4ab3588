//! Measures the writer: fills a topic with readings, drains it into ClickHouse, and prints what that cost as JSON.
//!
//! `cargo run --release -p penstock-storage-writer --example drain -- [readings] [devices] [metrics] [--at-least-once]`
//!
//! CPU is user and system time of this process between the writer's start and the last row; that of ClickHouse is
//! measured too where it is the devstack's own. Nothing is asserted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on ends"
)]

use std::time::{Duration, Instant};

use penstock_devstack::{Jvm, KafkaOptions, Stack, StackOptions};
use penstock_kafka::ClientSettings;
use penstock_loadgen::feed::{Feed, numbered_key};
use penstock_proto::topics::READINGS;
use penstock_proto::v1::SensorReading;
use penstock_service::Config;
use penstock_service::admin::Readiness;
use penstock_service::config::StorageGuarantee;
use penstock_service::metrics::own_cpu_s;
use penstock_storage_writer::{Metrics, run};
use prost::Message;
use tokio_util::sync::CancellationToken;

const T0_MS: i64 = 1_790_000_000_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (flags, numbers): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    if let Some(flag) = flags.iter().find(|flag| *flag != "--at-least-once") {
        println!("usage: drain [readings] [devices] [metrics] [--at-least-once]");
        anyhow::ensure!(flag == "--help", "{flag} is no option");
        return Ok(());
    }
    let mut args = numbers.iter().map(|number| number.parse::<u64>().expect("arguments are numbers"));
    let readings = args.next().unwrap_or(2_000_000);
    let devices = args.next().unwrap_or(1_000).max(1);
    let metrics_per_reading = args.next().unwrap_or(0);

    let kafka = KafkaOptions { jvm: Jvm::Throughput, heap_mib: 1_024, ..KafkaOptions::default() };
    let stack = Stack::start_async(StackOptions { kafka, ..StackOptions::default() }).await?;
    let mut config = Config::default();
    config.kafka.brokers = stack.kafka.brokers();
    config.clickhouse.url = stack.clickhouse.http_url();
    config.clickhouse.database = format!("bench_{}", std::process::id());
    config.writer.group = format!("bench-{}", std::process::id());
    config.kafka.topic_prefix = format!("bench{}.", std::process::id());
    if !flags.is_empty() {
        config.writer.guarantee = StorageGuarantee::AtLeastOnce;
    }
    // Rollups are another step, with figures of their own.
    config.writer.rollups = false;
    if let Ok(rows) = std::env::var("DRAIN_BATCH_ROWS_MAX") {
        config.writer.batch_rows_max = rows.parse()?;
    }

    fill(&config, readings, devices, metrics_per_reading).await?;

    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let shutdown = CancellationToken::new();
    let (cpu, clickhouse_cpu, started) = (own_cpu_s(), cpu_s(stack.clickhouse.pid()), Instant::now());
    let writer = tokio::spawn(run(&config, metrics.clone(), &Readiness::new(), shutdown.clone()));
    let mut first_row = None;
    while metrics.rows() < readings {
        anyhow::ensure!(!writer.is_finished(), "the writer ended: {:?}", writer.await);
        if metrics.rows() > 0 {
            first_row.get_or_insert_with(Instant::now);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (wall_s, cpu) = (started.elapsed().as_secs_f64(), own_cpu_s() - cpu);
    let clickhouse_cpu = cpu_s(stack.clickhouse.pid()) - clickhouse_cpu;
    let storing_s = first_row.map_or(wall_s, |first| first.elapsed().as_secs_f64());
    shutdown.cancel();
    writer.await??;

    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let (rows, batches) = (metrics.rows() as f64, metrics.batches() as f64);
    let report = serde_json::json!({
        "rows": metrics.rows(),
        "guarantee": if flags.is_empty() { "exactly-once" } else { "at-least-once" },
        "batches": metrics.batches(),
        "rows_per_batch": (rows / batches).round(),
        "wall_s": wall_s,
        "rows_per_s": (rows / storing_s).round(),
        "writer_cpu_s": cpu,
        "rows_per_cpu_s": (rows / cpu).round(),
        "writer_us_per_row": cpu * 1e6 / rows,
        "clickhouse_us_per_row": clickhouse_cpu * 1e6 / rows,
    });
    println!("{report:#}");
    Ok(())
}

/// Puts the readings into the topic, device by device in turns.
async fn fill(config: &Config, readings: u64, devices: u64, metrics: u64) -> anyhow::Result<()> {
    let client = ClientSettings {
        brokers: config.kafka.brokers.clone(),
        client_id: "bench".to_owned(),
        properties: Default::default(),
    };
    let specs = penstock_kafka::topic_specs(&config.kafka.topic_prefix, -1);
    penstock_kafka::provision(&client, &specs, Duration::from_secs(30)).await?;
    let mut feed = Feed::new(&client, &format!("{}{READINGS}", config.kafka.topic_prefix))?;
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for number in 0..readings {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (device, sequence) = (number % devices, number / devices);
        let payload = reading(sequence, random, metrics).encode_to_vec();
        feed.send(Some(&numbered_key(device)), &payload, None)?;
    }
    Ok(feed.delivered().await?)
}

/// A reading as fleets send it: some 40 bytes, and 16 more for each metric.
fn reading(sequence: u64, random: u64, metrics: u64) -> SensorReading {
    let noise = |shift: u32| f32::from(u8::try_from((random >> shift) & 0xff).unwrap_or(0)) / 100.0;
    SensorReading {
        timestamp: T0_MS + i64::try_from(sequence * 10_000 + (random >> 56)).unwrap_or(0),
        temperature: Some(20.0 + noise(8)),
        humidity: Some(50.0 + noise(16)),
        pressure: Some(1_013.0 + noise(24)),
        battery_level: Some(87),
        sequence,
        metrics: (0..metrics).map(|i| (format!("metric_{i}"), f64::from(noise(32)))).collect(),
        ..Default::default()
    }
}

/// User and system time of another process, in seconds; 0 if it cannot be read.
fn cpu_s(pid: Option<i32>) -> f64 {
    let stat =
        pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0.0 };
    let ticks =
        fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum::<u32>();
    f64::from(ticks) / 100.0
}
