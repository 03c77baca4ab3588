//! Whether a dead letter can be published now. Pure.

use penstock_proto::topics::{MqttTopic, READINGS};
use penstock_proto::{DeviceId, Invalid, Limits, Reason, check_reading, topics, wire};
use penstock_service::config::Bridge;
use penstock_storage_writer::admit::{Record, admit};

use super::LetterTopic;
use super::letter::Letter;

/// Room in a record for what is not its value: key, headers, Kafka's own fields.
const RECORD_OVERHEAD_BYTES: usize = 1024;

/// The limits of `[bridge]`, by which the gateway judges.
pub(crate) fn limits(config: &Bridge) -> Limits {
    Limits {
        past_ms: i64::from(config.timestamp_past_days) * 24 * 60 * 60 * 1000,
        future_ms: i64::from(config.timestamp_future_hours) * 60 * 60 * 1000,
        metrics_max: config.metrics_max,
        metric_name_bytes_max: config.metric_name_bytes_max,
        batch_readings_max: config.batch_readings_max,
        reading_bytes_max: config.reading_bytes_max,
    }
}

/// What becomes of a letter that can be published: its readings are records of `device`, what is invalid among them
/// become dead letters of their own, as if the gateway had received it now.
#[derive(Debug, PartialEq)]
pub(crate) struct Publishable<'a> {
    pub(crate) device: DeviceId,
    /// At least one.
    pub(crate) readings: Vec<&'a [u8]>,
    /// Readings of a batch that are still invalid.
    pub(crate) invalid: Vec<(&'a [u8], Invalid)>,
}

/// Judges a letter by the rules in force: those of the gateway for what it refused, those of the writer for what
/// storage refused. Times are judged as of when the letter was received.
///
/// # Errors
/// Why it still cannot go on.
pub(crate) fn judge<'a>(letter: &Letter<'a>, limits: &Limits) -> Result<Publishable<'a>, Invalid> {
    match letter.id.topic {
        LetterTopic::Readings => judge_published(letter, limits),
        LetterTopic::Storage => judge_stored(letter),
    }
}

fn judge_stored<'a>(letter: &Letter<'a>) -> Result<Publishable<'a>, Invalid> {
    if letter.payload.is_empty() {
        let detail =
            "the letter holds no value; the record may still be at its source, see `penstock dlq show`";
        return Err(Invalid::new(Reason::TooLarge, detail));
    }
    let (device, reading) = admit(&Record { key: letter.key, payload: Some(letter.payload) })?;
    fits(reading.as_bytes())?;
    Ok(Publishable { device, readings: vec![reading.as_bytes()], invalid: Vec::new() })
}

fn judge_published<'a>(letter: &Letter<'a>, limits: &Limits) -> Result<Publishable<'a>, Invalid> {
    let Some(device) = letter.mqtt_topic().map(|topic| topic.device()).or_else(|| letter.device()) else {
        return Err(Invalid::new(Reason::BadKey, "neither the key nor the MQTT topic names a device"));
    };
    let single = || judge_reading(letter.payload, device, letter, limits);
    let one = |reading| Publishable { device, readings: vec![reading], invalid: Vec::new() };
    let was = Reason::from_name(&letter.reason());
    match (letter.mqtt_topic(), was) {
        (Some(MqttTopic::Batch(_)), Some(Reason::Empty | Reason::TooManyReadings)) => {
            judge_batch(letter, device, limits)
        }
        // Either a reading out of a batch or a batch that could not be split: nothing but the bytes can tell.
        (Some(MqttTopic::Batch(_)), Some(Reason::Undecodable)) => {
            single().map(one).or_else(|invalid| judge_batch(letter, device, limits).map_err(|_| invalid))
        }
        _ => single().map(one),
    }
}

fn judge_batch<'a>(
    letter: &Letter<'a>,
    device: DeviceId,
    limits: &Limits,
) -> Result<Publishable<'a>, Invalid> {
    let mut found = Publishable { device, readings: Vec::new(), invalid: Vec::new() };
    for part in wire::split_batch(letter.payload) {
        let part = part?;
        let count = found.readings.len() + found.invalid.len();
        if count == limits.batch_readings_max {
            let detail = format!("more than {count} readings");
            return Err(Invalid::new(Reason::TooManyReadings, detail));
        }
        match judge_reading(part, device, letter, limits) {
            Ok(reading) => found.readings.push(reading),
            Err(invalid) => found.invalid.push((part, invalid)),
        }
    }
    if found.readings.is_empty() {
        let first = found.invalid.into_iter().next().map(|(_, invalid)| invalid);
        return Err(first.unwrap_or_else(|| Invalid::new(Reason::Empty, "the batch holds no reading")));
    }
    Ok(found)
}

fn judge_reading<'a>(
    reading: &'a [u8],
    device: DeviceId,
    letter: &Letter<'_>,
    limits: &Limits,
) -> Result<&'a [u8], Invalid> {
    check_reading(reading, device, letter.received_at_ms(), limits)?;
    fits(reading)?;
    Ok(reading)
}

/// Whether the readings topic takes it, with the headers that a replay adds.
fn fits(reading: &[u8]) -> Result<(), Invalid> {
    let contract = topics::CONTRACTS.iter().find(|contract| contract.name == READINGS);
    let record_bytes_max = contract.map_or(0, |contract| contract.record_bytes_max as usize);
    let bytes_max = record_bytes_max.saturating_sub(RECORD_OVERHEAD_BYTES);
    if reading.len() > bytes_max {
        let detail = format!("reading of {} bytes, the readings topic takes {bytes_max}", reading.len());
        return Err(Invalid::new(Reason::TooLarge, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use penstock_proto::topics::header;
    use penstock_proto::v1::{ReadingBatch, SensorReading};
    use proptest::prelude::*;
    use prost::Message;

    use super::super::letter::tests::{DEVICE, letter};
    use super::*;

    const NOW_MS: i64 = 1_790_000_000_000;

    fn reading(timestamp: i64) -> SensorReading {
        SensorReading { device_id: DEVICE.as_bytes().to_vec(), timestamp, ..Default::default() }
    }

    fn published(payload: &[u8], topic: &str, reason: &str) -> Result<(usize, usize), Reason> {
        published_by(payload, topic, reason, &Limits::default())
    }

    fn published_by(
        payload: &[u8],
        topic: &str,
        reason: &str,
        limits: &Limits,
    ) -> Result<(usize, usize), Reason> {
        let topic = format!("devices/{DEVICE}/{topic}");
        let now = NOW_MS.to_string();
        let headers: &[(&str, &[u8])] = &[
            (header::REASON, reason.as_bytes()),
            (header::MQTT_TOPIC, topic.as_bytes()),
            (header::RECEIVED_AT, now.as_bytes()),
        ];
        let letter = letter(LetterTopic::Readings, payload, headers);
        let judged = judge(&letter, limits);
        judged.map(|found| (found.readings.len(), found.invalid.len())).map_err(|invalid| invalid.reason)
    }

    #[test]
    fn a_letter_is_judged_by_the_limits_in_force_as_of_its_receipt() {
        let late = reading(NOW_MS + 48 * 3_600_000).encode_to_vec();
        assert_eq!(published(&late, "readings", "in-future"), Err(Reason::InFuture));
        let wider = Limits { future_ms: 72 * 3_600_000, ..Limits::default() };
        assert_eq!(published_by(&late, "readings", "in-future", &wider), Ok((1, 0)));
    }

    #[test]
    fn a_reading_out_of_a_batch_is_told_from_a_whole_batch() {
        let part = reading(NOW_MS).encode_to_vec();
        let batch = ReadingBatch { readings: vec![reading(NOW_MS), reading(1), reading(NOW_MS)] };
        let batch = batch.encode_to_vec();
        assert_eq!(published(&part, "readings/batch", "humidity-out-of-range"), Ok((1, 0)));
        assert_eq!(published(&part, "readings/batch", "undecodable"), Ok((1, 0)));
        assert_eq!(published(&batch, "readings/batch", "undecodable"), Ok((2, 1)));
        assert_eq!(published(&batch, "readings/batch", "too-many-readings"), Ok((2, 1)));
        let few = Limits { batch_readings_max: 2, ..Limits::default() };
        assert_eq!(
            published_by(&batch, "readings/batch", "too-many-readings", &few),
            Err(Reason::TooManyReadings)
        );
        let hopeless = ReadingBatch { readings: vec![reading(1)] }.encode_to_vec();
        assert_eq!(published(&hopeless, "readings/batch", "too-many-readings"), Err(Reason::TooOld));
        assert_eq!(published(b"", "readings/batch", "empty"), Err(Reason::Empty));
        assert_eq!(published(b"\xff", "readings/batch", "undecodable"), Err(Reason::Undecodable));
    }

    #[test]
    fn what_storage_refused_is_judged_as_the_writer_does() {
        let good = reading(NOW_MS).encode_to_vec();
        let of = |payload, key| {
            let mut letter = letter(LetterTopic::Storage, payload, &[]);
            letter.key = key;
            judge(&letter, &Limits::default()).map(|found| found.device).map_err(|invalid| invalid.reason)
        };
        assert_eq!(of(&good, Some(&[7; 16])), Ok(DEVICE));
        assert_eq!(of(&good, Some(&[8; 16])), Err(Reason::WrongDevice));
        assert_eq!(of(&good, None), Err(Reason::BadKey));
        assert_eq!(of(b"\xff", Some(&[7; 16])), Err(Reason::Undecodable));
        assert_eq!(of(b"", Some(&[7; 16])), Err(Reason::TooLarge), "its value is at its source only");
    }

    #[test]
    fn what_the_readings_topic_cannot_take_stays_refused() {
        let metrics =
            (0..120_000).map(|index| (format!("m{index}"), 0.0)).collect::<std::collections::HashMap<_, _>>();
        let huge =
            SensorReading { metrics: metrics.into_iter().collect(), ..reading(NOW_MS) }.encode_to_vec();
        assert!(huge.len() > 1 << 20);
        let stored = letter(LetterTopic::Storage, &huge, &[]);
        assert_eq!(judge(&stored, &Limits::default()).unwrap_err().reason, Reason::TooLarge);
    }

    #[test]
    fn a_letter_that_names_no_device_stays_refused() {
        let payload = reading(NOW_MS).encode_to_vec();
        let mut letter = letter(LetterTopic::Readings, &payload, &[]);
        letter.key = None;
        assert_eq!(judge(&letter, &Limits::default()).unwrap_err().reason, Reason::BadKey);
    }

    proptest! {
        #[test]
        fn no_letter_panics(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            batch: bool,
            storage: bool,
            reason in prop::sample::select(Reason::ALL),
        ) {
            let topic = format!("devices/{DEVICE}/readings{}", if batch { "/batch" } else { "" });
            let headers: &[(&str, &[u8])] =
                &[(header::REASON, reason.name().as_bytes()), (header::MQTT_TOPIC, topic.as_bytes())];
            let topic = if storage { LetterTopic::Storage } else { LetterTopic::Readings };
            let _ = judge(&letter(topic, &payload, headers), &Limits::default());
        }
    }
}
