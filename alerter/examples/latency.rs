//! Measures how long after a device has measured something its alert can be read: reads the alert topics with
//! `read_committed` for a while and compares the time of the reading that caused each first record with the clock.
//!
//! `cargo run --release -p penstock-alerter --example latency -- BROKERS TOPIC_PREFIX SECONDS`
//!
//! What was caused before this program had joined its group is left out. Devices and this program must share a clock. Silence is left out: nothing was published then. Prints JSON.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on ends"
)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use penstock_kafka::{ClientSettings, Consumer, ConsumerSettings, Polled};
use penstock_proto::alert_json::from_json;
use penstock_proto::topics::{DEVICE_ALERTS, LOW_BATTERY};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, prefix, seconds] = &args[..] else {
        anyhow::bail!("usage: latency BROKERS TOPIC_PREFIX SECONDS")
    };
    let client = ClientSettings {
        brokers: brokers.clone(),
        client_id: "latency".to_owned(),
        properties: Default::default(),
    };
    let settings = ConsumerSettings {
        group: format!("latency-{}", std::process::id()),
        topics: [DEVICE_ALERTS, LOW_BATTERY].map(|name| format!("{prefix}{name}")).to_vec(),
        fetch_bytes_max: 16 << 20,
        session_timeout_ms: 10_000,
        instance_id: None,
        read_committed: true,
    };
    let mut consumer = Consumer::subscribe(&client, &settings)?;
    let (started, period) = (Instant::now(), Duration::from_secs(seconds.parse()?));
    let mut latencies_ms = Vec::new();
    let mut since_ms = i64::MAX;
    while started.elapsed() < period {
        let assigned = match consumer.poll(1_000, Duration::from_millis(5))? {
            Polled::Records(records) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                let now_ms = i64::try_from(now.as_millis())?;
                let alerts = records.iter().filter_map(|record| from_json(record.payload).ok());
                let fresh = alerts.filter(|alert| alert.repeat == 0 && alert.time >= since_ms);
                latencies_ms.extend(fresh.map(|alert| now_ms - alert.time));
                continue;
            }
            Polled::Assigned(partitions) => partitions,
            Polled::Idle | Polled::Revoked { .. } => continue,
        };
        consumer.assign_done(&assigned)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        since_ms = i64::try_from(now.as_millis())? + 1_000;
    }
    latencies_ms.sort_unstable();
    let at = |percent: usize| latencies_ms.get(latencies_ms.len() * percent / 100).copied();
    let report = serde_json::json!({
        "alerts": latencies_ms.len(), "p50_ms": at(50), "p95_ms": at(95), "p99_ms": at(99), "max_ms": latencies_ms.last(),
    });
    println!("{report:#}");
    Ok(())
}
