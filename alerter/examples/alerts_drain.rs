//! Measures the alert stage: fills a topic with readings, applies ten rules to each, and prints what that cost as JSON.
//!
//! `cargo run --release -p penstock-alerter --example alerts_drain -- [readings] [devices]`
//!
//! CPU is user and system time of this process between the stage's start and the last reading. Nothing is asserted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on ends"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use penstock_alerter::{Metrics, run};
use penstock_devstack::{Jvm, Kafka, KafkaOptions};
use penstock_kafka::ClientSettings;
use penstock_loadgen::feed::{Feed, numbered_key};
use penstock_proto::topics::READINGS;
use penstock_proto::v1::SensorReading;
use penstock_service::Config;
use penstock_service::admin::Readiness;
use penstock_service::metrics::own_cpu_s;
use prost::Message;
use tokio_util::sync::CancellationToken;

const T0_MS: i64 = 1_790_000_000_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args =
        std::env::args().skip(1).map(|number| number.parse::<u64>().expect("arguments are numbers"));
    let readings = args.next().unwrap_or(2_000_000);
    let devices = args.next().unwrap_or(10_000).max(1);

    let options = KafkaOptions { jvm: Jvm::Throughput, heap_mib: 1_024, ..KafkaOptions::default() };
    let kafka = tokio::task::spawn_blocking(move || Kafka::start(&options)).await??;
    let mut config = Config::default();
    config.kafka.brokers = kafka.brokers();
    config.kafka.topic_prefix = format!("bench{}.", std::process::id());
    config.alerts.group = format!("bench-{}", std::process::id());
    config.alerts.rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ten-rules.toml");
    fill(&config, readings, devices).await?;

    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let value = |name: &str| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let found =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
        found.unwrap_or(0.0)
    };
    let shutdown = CancellationToken::new();
    let (_reloads, asked) = tokio::sync::watch::channel(0);
    let (cpu, started) = (own_cpu_s(), Instant::now());
    let stage = tokio::spawn(run(&config, metrics, &Readiness::new(), asked, shutdown.clone()));
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let wanted = readings as f64;
    while value("penstock_alerts_readings_total") < wanted {
        anyhow::ensure!(!stage.is_finished(), "the stage ended: {:?}", stage.await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (wall_s, cpu) = (started.elapsed().as_secs_f64(), own_cpu_s() - cpu);
    let state_bytes = value("penstock_alerts_state_bytes");
    let known = value("penstock_alerts_devices");
    shutdown.cancel();
    stage.await??;

    let report = serde_json::json!({
        "readings": readings,
        "devices": known,
        "wall_s": wall_s,
        "alerter_cpu_s": cpu,
        "readings_per_cpu_s": (wanted / cpu).round(),
        "alerter_us_per_reading": cpu * 1e6 / wanted,
        "state_bytes_per_device": (state_bytes / known.max(1.0)).round(),
    });
    println!("{report:#}");
    Ok(())
}

/// Puts the readings into the topic, device by device in turns.
async fn fill(config: &Config, readings: u64, devices: u64) -> anyhow::Result<()> {
    let client = ClientSettings {
        brokers: config.kafka.brokers.clone(),
        client_id: "bench".to_owned(),
        properties: Default::default(),
    };
    let specs = penstock_kafka::topic_specs(&config.kafka.topic_prefix, -1);
    penstock_kafka::provision(&client, &specs, Duration::from_secs(30)).await?;
    let mut feed = Feed::new(&client, &format!("{}{READINGS}", config.kafka.topic_prefix))?;
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..readings {
        let (device, sequence) = (number % devices, number / devices);
        let payload = reading(sequence, &mut random).encode_to_vec();
        feed.send(Some(&numbered_key(device)), &payload, None)?;
    }
    Ok(feed.delivered().await?)
}

/// Mostly ordinary weather, a reading every 10 s; one of a thousand is hot.
fn reading(sequence: u64, random: &mut fastrand::Rng) -> SensorReading {
    SensorReading {
        timestamp: T0_MS + i64::try_from(sequence * 10_000).unwrap_or(0) + random.i64(0..200),
        temperature: Some(if random.u32(..1_000) == 0 { 85.0 } else { 20.0 + random.f32() }),
        humidity: Some(50.0 + random.f32()),
        pressure: Some(1_013.0 + random.f32()),
        battery_level: Some(87),
        sequence,
        ..Default::default()
    }
}
