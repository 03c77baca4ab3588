//! Measures the pure evaluation of rules: evaluations per CPU second with ten rules a reading, and bytes a device.
//!
//! ```text
//! cargo run --release -p penstock-alerter --example evaluate -- [DEVICES] [READINGS A DEVICE]
//! ```
//! CPU time is user and system time of the process while readings are decoded and evaluated; making them is not counted.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use penstock_alerter::{Engine, Reading, RuleSet};
use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, ReadingView};
use penstock_service::metrics::own_cpu_s;
use prost::Message as _;

const PARTITIONS: usize = 48;
const BATCH: usize = 10_000;
const INTERVAL_MS: i64 = 10_000;
const START_MS: i64 = 1_790_000_000_000;

struct Made {
    device: DeviceId,
    received_ms: i64,
    payload: Vec<u8>,
}

/// Bytes of memory in use.
fn resident() -> Result<usize, Box<dyn Error>> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split_whitespace().nth(1).ok_or("no resident size")?.parse()?;
    Ok(pages * 4096)
}

fn device(number: usize) -> DeviceId {
    let mut bytes = [0x5a; 16];
    // Spread like random ids are.
    bytes[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    DeviceId::from_bytes(bytes)
}

/// Mostly ordinary weather; one reading of a thousand is not.
fn make(number: usize, round: usize, random: &mut fastrand::Rng) -> Made {
    let jitter = i64::try_from(number % 9_000).unwrap_or(0);
    let time_ms = START_MS + i64::try_from(round).unwrap_or(0) * INTERVAL_MS + jitter;
    let temperature = if random.u32(..1_000) == 0 { 85.0 } else { 20.0 + random.f32() };
    let reading = SensorReading {
        timestamp: time_ms,
        temperature: Some(temperature),
        humidity: Some(50.0 + random.f32()),
        pressure: Some(1_000.0 + random.f32()),
        battery_level: Some(80),
        sequence: round as u64,
        metrics: [("vibration".to_owned(), f64::from(random.u32(..50)) / 10.0)].into(),
        ..SensorReading::default()
    };
    Made { device: device(number), received_ms: time_ms + 20, payload: reading.encode_to_vec() }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let devices: usize = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(20), |text| text.parse())?;
    let rules =
        Arc::new(RuleSet::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ten-rules.toml"))?);
    let mut engines: Vec<Engine> = (0..PARTITIONS)
        .map(|partition| Engine::new(Arc::clone(&rules), i32::try_from(partition).unwrap_or(0)))
        .collect();
    let (before, mut cpu, mut raised, mut offset) = (resident()?, 0.0, 0, 0i64);
    let (mut random, mut out, mut dirty) = (fastrand::Rng::with_seed(7), Vec::new(), Vec::new());
    let mut made = Vec::with_capacity(BATCH);
    for round in 0..rounds {
        for first in (0..devices).step_by(BATCH) {
            made.clear();
            made.extend(
                (first..devices.min(first + BATCH)).map(|number| (number, make(number, round, &mut random))),
            );
            let start = own_cpu_s();
            for (number, made) in &made {
                let view = ReadingView::decode(&made.payload)?;
                offset += 1;
                let reading =
                    Reading { device: made.device, offset, received_ms: made.received_ms, view: &view };
                if let Some(engine) = engines.get_mut(number % PARTITIONS) {
                    engine.advance(made.received_ms, &mut out);
                    engine.reading(&reading, &mut out);
                }
            }
            cpu += own_cpu_s() - start;
            raised += out.len();
            out.clear();
        }
        for engine in &mut engines {
            dirty.clear();
            engine.take_dirty(usize::MAX, &mut dirty);
        }
    }
    drop((dirty, made));
    let evaluations: u64 = engines.iter().map(|engine| engine.counts().evaluations).sum();
    let bytes: usize = engines.iter().map(Engine::bytes).sum();
    let known: usize = engines.iter().map(Engine::devices).sum();
    println!("rules {}  devices {known}  readings {offset}  alerts {raised}", rules.rules().len());
    println!("rule evaluations per CPU second {:.0}", evaluations as f64 / cpu);
    println!("microseconds per reading {:.2}", cpu * 1e6 / offset.max(1) as f64);
    println!("bytes per device, estimated {:.0}", bytes as f64 / known.max(1) as f64);
    let grown = resident()?.saturating_sub(before);
    println!("bytes per device, resident {:.0}", grown as f64 / known.max(1) as f64);
    Ok(())
}
