//! Which Kafka records become rows. Pure.
//!
//! The gateway has judged every reading that came through it. What is left for the writer is what would make a row
//! wrong or an insert impossible: records of other producers that are no readings, that belong to no device, or that
//! hold what the table cannot. It never judges measurements.

use penstock_proto::{DeviceId, Invalid, ReadingView, Reason};

/// Earliest timestamp that is stored, in milliseconds since the Unix epoch. 0 is what a missing timestamp reads as.
pub const TIMESTAMP_MS_MIN: i64 = 1;
/// Latest timestamp that is stored: the end of 2099. The date on which a row expires must fit ClickHouse's
/// `DateTime`, which ends in 2106; beyond it wraps around, and a merge would delete the row at once.
pub const TIMESTAMP_MS_MAX: i64 = 4_102_444_799_999;

/// What the writer looks at of a Kafka record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The key, if there is one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` where the record has none (a tombstone).
    pub payload: Option<&'a [u8]>,
}

/// The device and the reading of a record.
///
/// # Errors
/// [`Invalid`] if the record cannot become a row; it belongs into the storage-failures topic.
#[inline]
pub fn admit<'a>(record: &Record<'a>) -> Result<(DeviceId, ReadingView<'a>), Invalid> {
    let Some(device) = record.key.and_then(|key| DeviceId::try_from(key).ok()) else {
        return Err(bad_key(record.key));
    };
    let Some(payload) = record.payload else {
        return Err(Invalid::new(Reason::Undecodable, "the record has no value"));
    };
    let reading = ReadingView::decode(payload)?;
    if !reading.device_id.is_empty() && reading.device_id != device.as_bytes() {
        return Err(wrong_device(device, reading.device_id));
    }
    let timestamp_ms = reading.timestamp_ms;
    if timestamp_ms < TIMESTAMP_MS_MIN {
        let detail = format!("timestamp {timestamp_ms} ms is before {TIMESTAMP_MS_MIN} ms");
        return Err(Invalid::new(Reason::TooOld, detail));
    }
    if timestamp_ms > TIMESTAMP_MS_MAX {
        let detail = format!("timestamp {timestamp_ms} ms is after {TIMESTAMP_MS_MAX} ms");
        return Err(Invalid::new(Reason::InFuture, detail));
    }
    if let Some(level) = reading.battery_level.filter(|level| u8::try_from(*level).is_err()) {
        let detail = format!("battery_level is {level} %, outside 0 to 255, which is what the column holds");
        return Err(Invalid::new(Reason::BatteryOutOfRange, detail));
    }
    Ok((device, reading))
}

#[cold]
fn bad_key(key: Option<&[u8]>) -> Invalid {
    match key {
        None => Invalid::new(Reason::BadKey, "the record has no key; it must be the 16 bytes of a device id"),
        Some(key) => {
            let detail = format!("the key has {} bytes; it must be the 16 bytes of a device id", key.len());
            Invalid::new(Reason::BadKey, detail)
        }
    }
}

#[cold]
fn wrong_device(device: DeviceId, found: &[u8]) -> Invalid {
    let detail = match DeviceId::try_from(found) {
        Ok(found) => format!("device_id is {found}, the key's device is {device}"),
        Err(_) => format!("device_id has {} bytes, not 16", found.len()),
    };
    Invalid::new(Reason::WrongDevice, detail)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use penstock_proto::v1::SensorReading;

    use super::*;

    const KEY: [u8; 16] = [7; 16];

    fn verdict(key: Option<&[u8]>, reading: &SensorReading) -> Result<(), Reason> {
        let payload = reading.encode_to_vec();
        admit(&Record { key, payload: Some(&payload) }).map(|_| ()).map_err(|invalid| invalid.reason)
    }

    fn reading() -> SensorReading {
        SensorReading { timestamp: 1_790_000_000_000, ..Default::default() }
    }

    #[test]
    fn a_reading_of_the_keys_device_becomes_a_row() {
        assert_eq!(verdict(Some(&KEY), &reading()), Ok(()));
        assert_eq!(verdict(Some(&KEY), &SensorReading { device_id: KEY.to_vec(), ..reading() }), Ok(()));
    }

    #[test]
    fn what_the_gateway_judges_is_not_judged_again() {
        let odd = SensorReading { humidity: Some(f32::NAN), battery_level: Some(101), ..reading() };
        assert_eq!(verdict(Some(&KEY), &odd), Ok(()));
    }

    #[test]
    fn a_key_that_is_no_device_id_is_refused() {
        assert_eq!(verdict(None, &reading()), Err(Reason::BadKey));
        for len in [0, 15, 17, 36] {
            assert_eq!(verdict(Some(&vec![7; len]), &reading()), Err(Reason::BadKey));
        }
    }

    #[test]
    fn a_reading_of_another_device_is_refused() {
        for device_id in [vec![8; 16], vec![7; 15]] {
            let other = SensorReading { device_id, ..reading() };
            assert_eq!(verdict(Some(&KEY), &other), Err(Reason::WrongDevice));
        }
    }

    #[test]
    fn what_is_no_reading_is_refused() {
        let refused = |payload| admit(&Record { key: Some(&KEY), payload }).unwrap_err().reason;
        assert_eq!(refused(None), Reason::Undecodable);
        assert_eq!(refused(Some(b"\xff\xff".as_slice())), Reason::Undecodable);
        assert_eq!(refused(Some(b"".as_slice())), Reason::TooOld);
    }

    #[test]
    fn timestamps_and_battery_levels_must_fit_their_columns() {
        let at = |timestamp| verdict(Some(&KEY), &SensorReading { timestamp, ..reading() });
        assert_eq!(at(TIMESTAMP_MS_MIN - 1), Err(Reason::TooOld));
        assert_eq!(at(TIMESTAMP_MS_MIN), Ok(()));
        assert_eq!(at(TIMESTAMP_MS_MAX), Ok(()));
        assert_eq!(at(TIMESTAMP_MS_MAX + 1), Err(Reason::InFuture));
        assert_eq!(at(i64::MIN), Err(Reason::TooOld));
        assert_eq!(at(i64::MAX), Err(Reason::InFuture));
        let battery = |level| verdict(Some(&KEY), &SensorReading { battery_level: Some(level), ..reading() });
        assert_eq!(battery(0), Ok(()));
        assert_eq!(battery(255), Ok(()));
        assert_eq!(battery(256), Err(Reason::BatteryOutOfRange));
        assert_eq!(battery(-1), Err(Reason::BatteryOutOfRange));
    }
}
