//! Readings for the rules: devices that get hot, run down, shake, fall silent and so on, whose readings come late, twice,
//! or not in order; and records that are no readings. What they say follows from a seed; when, from the clock.
//!
//! They go straight into the readings topic. What Kafka has taken is what the oracle goes by, so a reading that was given
//! up counts only if it got there all the same.

use std::time::Duration;

use fastrand::Rng;
use penstock_kafka::{ClientSettings, Outgoing, Producer, ProducerSettings, Receipt, Topic, receipt};
use penstock_proto::v1::SensorReading;
use prost::Message;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::reading::now_ms;

/// A record bears the time when it was given to the producer, and is given up after this long.
pub const DELIVERY_TIMEOUT_MS: u64 = 12_000;
/// A device that is not silent has a reading so often.
const EVERY: Duration = Duration::from_millis(250);
const FLUSH: Duration = Duration::from_secs(60);
/// Event time of the first reading.
const T0: i64 = 1_790_000_000_000;

/// What a device goes through for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Calm,
    Hot,
    Cold,
    Drained,
    Damp,
    /// Without humidity.
    Dry,
    Shaking,
    /// Its pressure falls.
    Falling,
    Silent,
}

const MOODS: [Mood; 9] = [
    Mood::Calm,
    Mood::Hot,
    Mood::Cold,
    Mood::Drained,
    Mood::Damp,
    Mood::Dry,
    Mood::Shaking,
    Mood::Falling,
    Mood::Silent,
];

/// One device.
#[derive(Debug)]
struct Stream {
    key: [u8; 16],
    rng: Rng,
    mood: Mood,
    /// Times that it lasts.
    left: u32,
    event_ms: i64,
    sequence: u64,
    battery: i32,
    pressure: f32,
    /// Readings that come later than they should, and how much later.
    held: Vec<(u32, SensorReading)>,
}

impl Stream {
    fn new(seed: u64, number: u32) -> Self {
        let rng = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number)));
        Self {
            key: key(number),
            rng,
            mood: Mood::Calm,
            left: 1 + number % 20,
            event_ms: T0,
            sequence: 0,
            battery: 100,
            pressure: 1_000.0,
            held: Vec::new(),
        }
    }

    /// What it sends this time.
    fn tick(&mut self, out: &mut Vec<SensorReading>) {
        if self.left == 0 {
            self.mood = MOODS[self.rng.usize(..MOODS.len())];
            self.left = match self.mood {
                // Some for so long that time itself makes them silent, not the next reading.
                Mood::Silent if self.rng.u8(..5) == 0 => self.rng.u32(120..200),
                Mood::Silent => self.rng.u32(10..40),
                _ => self.rng.u32(8..40),
            };
        }
        self.left -= 1;
        if self.mood == Mood::Silent {
            return;
        }
        let reading = self.measure();
        match self.rng.u8(..100) {
            0..4 => self.held.push((self.rng.u32(1..8), reading)),
            4 => out.extend([reading.clone(), reading]),
            5 => out.push(SensorReading { timestamp: reading.timestamp - 60_000, ..reading }),
            _ => out.push(reading),
        }
        for (wait, _) in &mut self.held {
            *wait -= 1;
        }
        out.extend(self.held.extract_if(.., |(wait, _)| *wait == 0).map(|(_, reading)| reading));
    }

    fn measure(&mut self) -> SensorReading {
        let gap = self.rng.u8(..20) == 0;
        self.event_ms += if gap { self.rng.i64(2_000..8_000) } else { self.rng.i64(900..1_100) };
        self.sequence += 1;
        self.battery = match self.mood {
            Mood::Drained => (self.battery.min(13) - self.rng.i32(0..=1)).max(1),
            _ => (self.battery + 4).min(100),
        };
        self.pressure = if self.mood == Mood::Falling { self.pressure - 0.5 } else { 1_000.0 };
        let temperature = match self.mood {
            Mood::Hot => 70.0 + self.rng.f32() * 25.0,
            Mood::Cold => -6.0 + self.rng.f32() * 6.5,
            _ => 20.0,
        };
        let humidity = match self.mood {
            Mood::Dry => None,
            Mood::Damp => Some(86.0 + self.rng.f32() * 13.0),
            _ => Some(50.0),
        };
        let vibration = if self.mood == Mood::Shaking { self.rng.f64() * 12.0 } else { 1.0 };
        SensorReading {
            timestamp: self.event_ms,
            sequence: self.sequence,
            temperature: Some(temperature),
            humidity,
            pressure: Some(self.pressure),
            battery_level: Some(self.battery),
            metrics: [("vibration".to_owned(), vibration)].into(),
            ..SensorReading::default()
        }
    }
}

/// The key of a device.
pub fn key(number: u32) -> [u8; 16] {
    let mut key = [0xa1; 16];
    key[12..].copy_from_slice(&number.to_be_bytes());
    key
}

/// All devices. They go on from round to round.
#[derive(Debug)]
pub struct Devices {
    streams: Vec<Stream>,
    rng: Rng,
}

impl Devices {
    /// Devices whose readings follow from a seed.
    pub fn new(seed: u64, devices: u32) -> Self {
        let streams = (0..devices).map(|number| Stream::new(seed, number)).collect();
        Self { streams, rng: Rng::with_seed(seed) }
    }
}

/// What came of the records of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Readings that Kafka has acknowledged.
    pub acked: u64,
    /// Records that were given up; some may be in Kafka.
    pub given_up: u64,
    /// Acknowledged records that are no readings.
    pub undecodable: u64,
}

/// The load of one round.
pub struct Load {
    task: JoinHandle<(Devices, Sent)>,
    /// No more readings when it is dropped.
    stop: DropGuard,
}

impl Load {
    /// Starts it.
    ///
    /// # Panics
    /// Where there can be no producer.
    pub fn start(runtime: &Runtime, client: &ClientSettings, topic: &str, devices: Devices) -> Self {
        let settings =
            ProducerSettings { delivery_timeout_ms: DELIVERY_TIMEOUT_MS, ..ProducerSettings::default() };
        let producer = Producer::new(client, &settings).unwrap();
        let topic = producer.topic(topic).unwrap();
        let stop = CancellationToken::new();
        let pump = Pump { producer, topic, readings: Vec::new(), undecodable: Vec::new() };
        let task = runtime.spawn(pump.run(devices, stop.clone()));
        Self { task, stop: stop.drop_guard() }
    }

    /// No more readings; waits until it is known of each what came of it.
    ///
    /// # Panics
    /// Where that is not known in time.
    pub fn finish(self, runtime: &Runtime) -> (Devices, Sent) {
        drop(self.stop);
        runtime.block_on(self.task).unwrap()
    }
}

struct Pump {
    producer: Producer,
    topic: Topic,
    /// Of a round, so their number is bounded.
    readings: Vec<Receipt>,
    undecodable: Vec<Receipt>,
}

impl Pump {
    async fn run(mut self, mut devices: Devices, stop: CancellationToken) -> (Devices, Sent) {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut out = Vec::new();
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            let Devices { streams, rng } = &mut devices;
            for stream in streams {
                stream.tick(&mut out);
                for reading in out.drain(..) {
                    if let Some(receipt) = self.send(Some(&stream.key), &reading.encode_to_vec()) {
                        self.readings.push(receipt);
                    }
                }
            }
            let anybody = key(rng.u32(..1_000));
            let of_anybody = [None, Some(&anybody[..]), Some(&anybody[..5])];
            let receipt = self.send(of_anybody[rng.usize(..3)], b"\xff\xffno reading");
            self.undecodable.extend(receipt);
        }
        assert!(self.producer.flush(FLUSH).await, "records are still on their way");
        let mut sent = Sent::default();
        for receipt in self.readings {
            *(if receipt.await.is_ok() { &mut sent.acked } else { &mut sent.given_up }) += 1;
        }
        for receipt in self.undecodable {
            *(if receipt.await.is_ok() { &mut sent.undecodable } else { &mut sent.given_up }) += 1;
        }
        (devices, sent)
    }

    /// None where the queue is full: then there is a reading less.
    fn send(&self, key: Option<&[u8]>, payload: &[u8]) -> Option<Receipt> {
        let record = Outgoing {
            topic: &self.topic,
            key,
            payload,
            timestamp_ms: Some(now_ms()),
            headers: &[],
            partition: None,
        };
        let (completion, receipt) = receipt();
        self.producer.send(record, completion).is_ok().then_some(receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(seed: u64, ticks: u32) -> Vec<SensorReading> {
        let mut stream = Stream::new(seed, 3);
        let mut out = Vec::new();
        (0..ticks).for_each(|_| stream.tick(&mut out));
        out
    }

    #[test]
    fn the_same_seed_gives_the_same_readings_and_another_gives_others() {
        assert_eq!(readings(1, 500), readings(1, 500));
        assert_ne!(readings(1, 500), readings(2, 500));
    }

    #[test]
    fn readings_come_late_and_twice_and_devices_fall_silent() {
        let all = readings(1, 4_000);
        assert!((1_500..4_000).contains(&all.len()), "{}", all.len());
        let place = |reading: &SensorReading| (reading.timestamp, reading.sequence);
        let late = all.windows(2).filter(|pair| place(&pair[1]) < place(&pair[0])).count();
        let twice = all.windows(2).filter(|pair| pair[1] == pair[0]).count();
        assert!(late > 50 && twice > 10, "{late} late, {twice} twice");
    }
}
