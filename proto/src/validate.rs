//! What makes a reading valid.
//!
//! The gateway judges every reading here before it goes to Kafka; the writer judges records of other producers by the
//! same rules.

use std::borrow::Cow;

use crate::wire::{DecodeError, ReadingView};
use crate::{DeviceId, Reason};

/// The limits that readings are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How far before receipt a reading's timestamp may lie, in milliseconds.
    pub past_ms: i64,
    /// How far after receipt a reading's timestamp may lie, in milliseconds.
    pub future_ms: i64,
    /// Entries in `metrics` at most.
    pub metrics_max: usize,
    /// Bytes in the name of a metric at most.
    pub metric_name_bytes_max: usize,
    /// Readings in a batch at most.
    pub batch_readings_max: usize,
    /// Bytes of one encoded reading at most.
    pub reading_bytes_max: usize,
}

impl Limits {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
}

impl Default for Limits {
    /// 5 years back, 24 hours ahead, 64 metrics with names of 64 bytes, 10,000 readings a batch, 64 KiB a reading.
    fn default() -> Self {
        Self {
            past_ms: 5 * 365 * Self::DAY_MS + 2 * Self::DAY_MS,
            future_ms: Self::DAY_MS,
            metrics_max: 64,
            metric_name_bytes_max: 64,
            batch_readings_max: 10_000,
            reading_bytes_max: 64 * 1024,
        }
    }
}

/// The timestamps that are accepted at one moment of receipt, both ends included, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Earliest accepted timestamp.
    pub from_ms: i64,
    /// Latest accepted timestamp.
    pub to_ms: i64,
}

impl Window {
    /// The window around a moment of receipt.
    pub const fn at(received_at_ms: i64, limits: &Limits) -> Self {
        Self {
            from_ms: received_at_ms.saturating_sub(limits.past_ms),
            to_ms: received_at_ms.saturating_add(limits.future_ms),
        }
    }
}

/// A payload that is no valid reading: why, and what exactly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Invalid {
    /// The entry in the table of reasons.
    pub reason: Reason,
    /// The value found and the limit it breaks, for people.
    pub detail: Cow<'static, str>,
}

impl Invalid {
    /// A refusal with its detail.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl From<DecodeError> for Invalid {
    fn from(error: DecodeError) -> Self {
        Self::new(Reason::Undecodable, error.to_string())
    }
}

/// Decodes one reading of `device` and holds it to the limits.
///
/// # Errors
/// [`Invalid`] with the first reason found.
pub fn check_reading<'a>(
    payload: &'a [u8],
    device: DeviceId,
    received_at_ms: i64,
    limits: &Limits,
) -> Result<ReadingView<'a>, Invalid> {
    if payload.len() > limits.reading_bytes_max {
        let detail = format!("reading of {} bytes, at most {}", payload.len(), limits.reading_bytes_max);
        return Err(Invalid::new(Reason::TooLarge, detail));
    }
    let reading = ReadingView::decode(payload)?;
    if !reading.device_id.is_empty() && reading.device_id != device.as_bytes() {
        let detail = match DeviceId::try_from(reading.device_id) {
            Ok(found) => format!("device_id is {found}, the topic's device is {device}"),
            Err(_) => format!("device_id has {} bytes, not 16", reading.device_id.len()),
        };
        return Err(Invalid::new(Reason::WrongDevice, detail));
    }
    check_timestamp(reading.timestamp_ms, received_at_ms, limits)?;
    check_measurements(&reading)?;
    check_metrics(&reading, limits)?;
    Ok(reading)
}

fn check_timestamp(timestamp_ms: i64, received_at_ms: i64, limits: &Limits) -> Result<(), Invalid> {
    let window = Window::at(received_at_ms, limits);
    if timestamp_ms < window.from_ms {
        let detail = format!("timestamp {timestamp_ms} ms is before {} ms", window.from_ms);
        return Err(Invalid::new(Reason::TooOld, detail));
    }
    if timestamp_ms > window.to_ms {
        let detail = format!("timestamp {timestamp_ms} ms is after {} ms", window.to_ms);
        return Err(Invalid::new(Reason::InFuture, detail));
    }
    Ok(())
}

fn check_measurements(reading: &ReadingView<'_>) -> Result<(), Invalid> {
    let measurements = [
        ("temperature", reading.temperature),
        ("humidity", reading.humidity),
        ("pressure", reading.pressure),
    ];
    for (name, value) in measurements {
        if let Some(value) = value.filter(|value| !value.is_finite()) {
            return Err(Invalid::new(Reason::NotFinite, format!("{name} is {value}")));
        }
    }
    if let Some(humidity) = reading.humidity.filter(|value| !(0.0..=100.0).contains(value)) {
        let detail = format!("humidity is {humidity} %, outside 0 to 100");
        return Err(Invalid::new(Reason::HumidityOutOfRange, detail));
    }
    if let Some(battery) = reading.battery_level.filter(|value| !(0..=100).contains(value)) {
        let detail = format!("battery_level is {battery} %, outside 0 to 100");
        return Err(Invalid::new(Reason::BatteryOutOfRange, detail));
    }
    Ok(())
}

fn check_metrics(reading: &ReadingView<'_>, limits: &Limits) -> Result<(), Invalid> {
    if reading.metrics_len > limits.metrics_max {
        let detail = format!("{} metrics, at most {}", reading.metrics_len, limits.metrics_max);
        return Err(Invalid::new(Reason::TooManyMetrics, detail));
    }
    for (name, value) in reading.metrics() {
        if name.is_empty() || name.len() > limits.metric_name_bytes_max {
            let detail =
                format!("a metric name has {} bytes, not 1 to {}", name.len(), limits.metric_name_bytes_max);
            return Err(Invalid::new(Reason::MetricNameLength, detail));
        }
        if !value.is_finite() {
            return Err(Invalid::new(Reason::NotFinite, format!("metric {name:?} is {value}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::v1::SensorReading;

    const NOW_MS: i64 = 1_790_000_000_000;
    const DEVICE: DeviceId = DeviceId::from_bytes([7; 16]);

    fn valid() -> SensorReading {
        SensorReading {
            device_id: DEVICE.as_bytes().to_vec(),
            timestamp: NOW_MS,
            temperature: Some(-21.5),
            humidity: Some(55.0),
            pressure: Some(1013.2),
            battery_level: Some(87),
            sequence: 3,
            metrics: [("wind_speed".to_owned(), 4.2)].into(),
        }
    }

    fn verdict(change: impl FnOnce(&mut SensorReading)) -> Result<(), Reason> {
        let mut reading = valid();
        change(&mut reading);
        check_reading(&reading.encode_to_vec(), DEVICE, NOW_MS, &Limits::default())
            .map(|_| ())
            .map_err(|invalid| invalid.reason)
    }

    #[test]
    fn a_plain_reading_is_valid_and_so_is_an_empty_one_with_a_timestamp() {
        assert_eq!(verdict(|_| ()), Ok(()));
        assert_eq!(verdict(|r| *r = SensorReading { timestamp: NOW_MS, ..Default::default() }), Ok(()));
    }

    #[test]
    fn the_payload_must_name_the_topics_device_or_none() {
        assert_eq!(verdict(|r| r.device_id = vec![]), Ok(()));
        assert_eq!(verdict(|r| r.device_id = vec![8; 16]), Err(Reason::WrongDevice));
        assert_eq!(verdict(|r| r.device_id = vec![7; 15]), Err(Reason::WrongDevice));
    }

    #[test]
    fn the_timestamp_window_includes_both_its_ends() {
        let limits = Limits::default();
        assert_eq!(verdict(|r| r.timestamp = NOW_MS - limits.past_ms), Ok(()));
        assert_eq!(verdict(|r| r.timestamp = NOW_MS - limits.past_ms - 1), Err(Reason::TooOld));
        assert_eq!(verdict(|r| r.timestamp = NOW_MS + limits.future_ms), Ok(()));
        assert_eq!(verdict(|r| r.timestamp = NOW_MS + limits.future_ms + 1), Err(Reason::InFuture));
        assert_eq!(verdict(|r| r.timestamp = i64::MIN), Err(Reason::TooOld));
        assert_eq!(verdict(|r| r.timestamp = i64::MAX), Err(Reason::InFuture));
    }

    #[test]
    fn measurements_are_finite_and_in_range() {
        assert_eq!(verdict(|r| r.temperature = Some(f32::NAN)), Err(Reason::NotFinite));
        assert_eq!(verdict(|r| r.pressure = Some(f32::INFINITY)), Err(Reason::NotFinite));
        assert_eq!(verdict(|r| r.humidity = Some(f32::NEG_INFINITY)), Err(Reason::NotFinite));
        assert_eq!(verdict(|r| r.humidity = Some(100.0)), Ok(()));
        assert_eq!(verdict(|r| r.humidity = Some(100.1)), Err(Reason::HumidityOutOfRange));
        assert_eq!(verdict(|r| r.humidity = Some(-0.1)), Err(Reason::HumidityOutOfRange));
        assert_eq!(verdict(|r| r.battery_level = Some(0)), Ok(()));
        assert_eq!(verdict(|r| r.battery_level = Some(101)), Err(Reason::BatteryOutOfRange));
        assert_eq!(verdict(|r| r.battery_level = Some(-1)), Err(Reason::BatteryOutOfRange));
    }

    #[test]
    fn metrics_are_few_named_and_finite() {
        assert_eq!(verdict(|r| r.metrics = [("x".repeat(64), 1.0)].into()), Ok(()));
        assert_eq!(verdict(|r| r.metrics = [("x".repeat(65), 1.0)].into()), Err(Reason::MetricNameLength));
        assert_eq!(verdict(|r| r.metrics = [(String::new(), 1.0)].into()), Err(Reason::MetricNameLength));
        assert_eq!(verdict(|r| r.metrics = [("x".into(), f64::NAN)].into()), Err(Reason::NotFinite));
        let many = |count: u32| (0..count).map(|i| (i.to_string(), 0.0)).collect();
        assert_eq!(verdict(|r| r.metrics = many(64)), Ok(()));
        assert_eq!(verdict(|r| r.metrics = many(65)), Err(Reason::TooManyMetrics));
    }

    #[test]
    fn an_oversized_payload_is_refused_before_it_is_decoded() {
        let payload = vec![0xff; 64 * 1024 + 1];
        let invalid = check_reading(&payload, DEVICE, NOW_MS, &Limits::default()).unwrap_err();
        assert_eq!(invalid.reason, Reason::TooLarge);
    }
}
