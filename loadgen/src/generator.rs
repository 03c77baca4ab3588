//! Readings as a device would measure them: values that drift slowly, timestamps that never go back, and, where asked
//! for, readings that are no valid ones. Does no I/O; the same seed and times give the same readings.

use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, Reason};
use prost::Message as _;

use crate::ailment::Ailment;

/// The reasons for which readings are made invalid on purpose.
pub const INVALID_REASONS: [Reason; 8] = [
    Reason::HumidityOutOfRange,
    Reason::NotFinite,
    Reason::BatteryOutOfRange,
    Reason::WrongDevice,
    Reason::TooOld,
    Reason::InFuture,
    Reason::MetricNameLength,
    Reason::Undecodable,
];

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Further back than the widest window an operator is likely to set (the default is 5 years).
const TOO_OLD_MS: i64 = 30 * 365 * DAY_MS;
/// Further ahead than the default window of 24 hours.
const IN_FUTURE_MS: i64 = 30 * DAY_MS;
/// How late a late reading is: up to two of ClickHouse's monthly partitions back.
const LATE_MS: std::ops::RangeInclusive<i64> = (DAY_MS / 24)..=(60 * DAY_MS);
/// Charge that a reading costs, in %: a battery lasts 200,000 readings.
const BATTERY_PER_READING: f32 = 0.000_5;
/// A measurement is now and then missing, as from a real sensor: 1 in this many.
const MISSING_ONE_IN: u32 = 40;
/// Every so many devices, one leaves `device_id` out of its payloads, which the contract allows.
const WITHOUT_ID_ONE_IN: usize = 4;

/// An encoded reading and what the ledger keeps of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) bytes: Vec<u8>,
    pub(crate) timestamp_ms: i64,
    pub(crate) invalid: Option<Reason>,
}

/// Makes the readings of one device.
#[derive(Debug)]
pub(crate) struct Generator {
    rng: fastrand::Rng,
    device: DeviceId,
    names_device: bool,
    invalid_fraction: f64,
    late_fraction: f64,
    ailment: Option<Ailment>,
    made: u64,
    next_sequence: u64,
    last_ms: i64,
    temperature: Drift,
    humidity: Drift,
    pressure: Drift,
    signal: Drift,
    co2: Drift,
    battery: f32,
}

/// A value that wanders around its mean, and is told as precisely as sensors do.
#[derive(Debug)]
struct Drift {
    value: f32,
    mean: f32,
    step: f32,
    /// Values told for a difference of 1.
    per_unit: f32,
}

impl Drift {
    fn new(rng: &mut fastrand::Rng, mean: f32, spread: f32, step: f32, per_unit: f32) -> Self {
        let mean = mean + spread * (2.0 * rng.f32() - 1.0);
        Self { value: mean, mean, step, per_unit }
    }

    /// The next value, now and then missing.
    fn measure(&mut self, rng: &mut fastrand::Rng) -> Option<f32> {
        self.value += self.step * (2.0 * rng.f32() - 1.0) + 0.01 * (self.mean - self.value);
        let told = (self.value * self.per_unit).round() / self.per_unit;
        (rng.u32(..MISSING_ONE_IN) != 0).then_some(told)
    }
}

impl Generator {
    /// The readings of the device at `index` of the fleet; `invalid_fraction` (0 to 1) of them are made invalid.
    pub(crate) fn new(
        device: DeviceId,
        index: usize,
        seed: u64,
        first_sequence: u64,
        invalid_fraction: f64,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index as u64);
        Self {
            device,
            names_device: index % WITHOUT_ID_ONE_IN != WITHOUT_ID_ONE_IN - 1,
            invalid_fraction,
            late_fraction: 0.0,
            ailment: None,
            made: 0,
            next_sequence: first_sequence,
            last_ms: i64::MIN,
            temperature: Drift::new(&mut rng, 19.0, 8.0, 0.1, 100.0),
            humidity: Drift::new(&mut rng, 50.0, 20.0, 0.3, 10.0),
            pressure: Drift::new(&mut rng, 1013.0, 12.0, 0.05, 10.0),
            signal: Drift::new(&mut rng, -70.0, 15.0, 0.5, 1.0),
            co2: Drift::new(&mut rng, 600.0, 150.0, 2.0, 1.0),
            battery: 60.0 + 40.0 * rng.f32(),
            rng,
        }
    }

    /// From now on this fraction (0 to 1) of the readings is late: measured an hour to 60 days before.
    pub(crate) fn with_late(mut self, late_fraction: f64) -> Self {
        self.late_fraction = late_fraction;
        self
    }

    /// From now on its readings show that something is wrong.
    pub(crate) const fn with_ailment(mut self, ailment: Option<Ailment>) -> Self {
        self.ailment = ailment;
        self
    }

    /// The reading of this moment; `None` if the device has fallen silent. Its timestamp is never before that of the
    /// reading before, unless it is late.
    pub(crate) fn next(&mut self, now_ms: i64) -> Option<Made> {
        self.last_ms = self.last_ms.max(now_ms);
        let mut reading = self.measure();
        if let Some(ailment) = self.ailment
            && !ailment.afflict(self.made, &mut reading)
        {
            return None;
        }
        self.made += 1;
        self.next_sequence += 1;
        if self.late_fraction > 0.0 && self.rng.f64() < self.late_fraction {
            reading.timestamp -= self.rng.i64(LATE_MS);
        }
        let invalid = self.make_invalid();
        if let Some(reason) = invalid {
            spoil(&mut reading, reason);
        }
        let bytes = match invalid {
            Some(Reason::Undecodable) => undecodable(reading.sequence, reading.timestamp),
            _ => reading.encode_to_vec(),
        };
        Some(Made { bytes, timestamp_ms: reading.timestamp, invalid })
    }

    fn make_invalid(&mut self) -> Option<Reason> {
        let chosen = self.invalid_fraction > 0.0 && self.rng.f64() < self.invalid_fraction;
        chosen.then(|| INVALID_REASONS[self.rng.usize(..INVALID_REASONS.len())])
    }

    fn measure(&mut self) -> SensorReading {
        let rng = &mut self.rng;
        let mut metrics = std::collections::BTreeMap::new();
        if let Some(signal) = self.signal.measure(rng) {
            metrics.insert("signal_dbm".to_owned(), f64::from(signal));
        }
        if let Some(co2) = self.co2.measure(rng) {
            metrics.insert("co2_ppm".to_owned(), f64::from(co2));
        }
        self.battery = (self.battery - BATTERY_PER_READING).max(1.0);
        #[allow(clippy::cast_possible_truncation, reason = "1 to 100")]
        let battery_level = self.battery as i32;
        SensorReading {
            device_id: if self.names_device { self.device.as_bytes().to_vec() } else { Vec::new() },
            timestamp: self.last_ms,
            temperature: self.temperature.measure(rng),
            humidity: self.humidity.measure(rng).map(|humidity| humidity.clamp(0.0, 100.0)),
            pressure: self.pressure.measure(rng),
            battery_level: Some(battery_level),
            sequence: self.next_sequence,
            metrics,
        }
    }
}

fn spoil(reading: &mut SensorReading, reason: Reason) {
    match reason {
        Reason::HumidityOutOfRange => reading.humidity = Some(140.0),
        Reason::NotFinite => reading.temperature = Some(f32::NAN),
        Reason::BatteryOutOfRange => reading.battery_level = Some(-5),
        Reason::WrongDevice => reading.device_id = vec![0xee; 16],
        Reason::TooOld => reading.timestamp -= TOO_OLD_MS,
        Reason::InFuture => reading.timestamp += IN_FUTURE_MS,
        Reason::MetricNameLength => {
            reading.metrics.insert(String::new(), 1.0);
        }
        // The payload as a whole is replaced where it is encoded.
        _ => {}
    }
}

/// No protobuf message (wire type 7 does not exist), but a dead letter of it can be told from others.
const UNDECODABLE: &str = "not a reading ";

fn undecodable(sequence: u64, timestamp_ms: i64) -> Vec<u8> {
    [b"\xff\xff", format!("{UNDECODABLE}{sequence} {timestamp_ms}").as_bytes()].concat()
}

/// Sequence number and timestamp of a payload that was made undecodable on purpose.
pub(crate) fn parse_undecodable(payload: &[u8]) -> Option<(u64, i64)> {
    let text = std::str::from_utf8(payload.strip_prefix(b"\xff\xff")?).ok()?;
    let (sequence, timestamp_ms) = text.strip_prefix(UNDECODABLE)?.split_once(' ')?;
    Some((sequence.parse().ok()?, timestamp_ms.parse().ok()?))
}

/// Appends an encoded reading to an encoded `ReadingBatch`: field 1, length-delimited.
pub(crate) fn push_to_batch(batch: &mut Vec<u8>, reading: &[u8]) {
    batch.push(0x0a);
    prost::encoding::encode_varint(reading.len() as u64, batch);
    batch.extend_from_slice(reading);
}

#[cfg(test)]
mod tests {
    use penstock_proto::wire::split_batch;
    use penstock_proto::{Limits, ReadingView, check_reading};

    use super::*;

    const NOW_MS: i64 = 1_790_000_000_000;
    const DEVICE: DeviceId = DeviceId::from_bytes([7; 16]);

    fn name_of(bytes: &[u8]) -> (u64, i64) {
        let decoded = ReadingView::decode(bytes).map(|view| (view.sequence, view.timestamp_ms));
        decoded.unwrap_or_else(|_| parse_undecodable(bytes).unwrap())
    }

    #[test]
    fn readings_are_valid_and_their_sequence_and_time_go_up() {
        for index in 0..8 {
            let mut generator = Generator::new(DEVICE, index, 3, 10, 0.0);
            let (mut last_ms, mut missing) = (0, 0);
            for sequence in 10..1_010 {
                // The clock of the computer is set back in the middle.
                let now_ms = if sequence < 500 { NOW_MS } else { NOW_MS - 60_000 };
                let made = generator.next(now_ms).unwrap();
                let view = check_reading(&made.bytes, DEVICE, NOW_MS, &Limits::default()).unwrap();
                assert_eq!(
                    (view.sequence, view.timestamp_ms, made.invalid),
                    (sequence, made.timestamp_ms, None)
                );
                assert!(view.timestamp_ms >= last_ms);
                assert_eq!(view.device_id.is_empty(), index % 4 == 3);
                last_ms = view.timestamp_ms;
                missing += usize::from(view.temperature.is_none()) + 2 - view.metrics_len;
            }
            assert!((20..200).contains(&missing), "{missing}");
        }
    }

    #[test]
    fn invalid_readings_are_refused_for_the_reason_they_were_made_for() {
        let mut generator = Generator::new(DEVICE, 0, 3, 1, 0.5);
        let mut counts = std::collections::HashMap::new();
        for sequence in 1..=2_000 {
            let made = generator.next(NOW_MS).unwrap();
            let verdict = check_reading(&made.bytes, DEVICE, NOW_MS, &Limits::default());
            assert_eq!(name_of(&made.bytes), (sequence, made.timestamp_ms), "every dead letter can be told");
            assert_eq!(verdict.err().map(|invalid| invalid.reason), made.invalid);
            *counts.entry(made.invalid).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 1 + INVALID_REASONS.len());
        assert!((800..1_200).contains(&counts[&None]), "{counts:?}");
    }

    #[test]
    fn late_readings_are_valid_and_some_of_them_two_months_old() {
        let mut generator = Generator::new(DEVICE, 0, 3, 1, 0.0).with_late(0.5);
        let ages: Vec<_> = (0..1_000)
            .map(|_| {
                let made = generator.next(NOW_MS).unwrap();
                check_reading(&made.bytes, DEVICE, NOW_MS, &Limits::default()).unwrap();
                NOW_MS - made.timestamp_ms
            })
            .collect();
        assert!((400..600).contains(&ages.iter().filter(|age| **age > 0).count()));
        assert!(ages.iter().any(|age| *age > 50 * DAY_MS));
    }

    #[test]
    fn a_seed_gives_the_same_readings_again() {
        let readings = |seed| {
            let mut generator = Generator::new(DEVICE, 1, seed, 1, 0.1);
            (0..50).map(|_| generator.next(NOW_MS).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(readings(5), readings(5));
        assert_ne!(readings(5), readings(6));
    }

    #[test]
    fn a_batch_splits_into_the_readings_pushed_to_it() {
        let mut generator = Generator::new(DEVICE, 1, 1, 1, 0.5);
        let readings: Vec<_> = (0..20).map(|_| generator.next(NOW_MS).unwrap().bytes).collect();
        let mut batch = Vec::new();
        readings.iter().for_each(|reading| push_to_batch(&mut batch, reading));
        let split: Vec<_> = split_batch(&batch).map(Result::unwrap).collect();
        assert_eq!(split, readings);
    }
}
