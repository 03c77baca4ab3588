//! From a record of an alert topic to a row of `alerts_stored`, in ClickHouse's `RowBinary`. Pure.

use penstock_proto::alert_json::{AlertJsonError, from_json};
use penstock_proto::v1::{AlertSeverity, AlertState, DeviceAlert};
use penstock_proto::{DeviceId, Invalid, Reason};
use uuid::Uuid;

use crate::admit::{TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN};

/// The columns of a row, in the order they are sent.
pub(super) const COLUMNS: &str = "id, rule, device_id, severity, state, repeat, reason, onset, time, raised_at, \
     window_start, window_end, reading_count, value, threshold, text, source_partition, source_offset, kafka_topic, \
     kafka_partition, kafka_offset";

/// What a `DateTime64(3)` holds: 1900 to 2299, in milliseconds since the Unix epoch.
const DATETIME64_MS: std::ops::RangeInclusive<i64> = -2_208_988_800_000..=10_413_791_999_999;

/// What is looked at of a Kafka record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// Name of the topic, with its prefix.
    pub(super) topic: &'a str,
    pub(super) partition: u16,
    pub(super) offset: u64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<&'a [u8]>,
    /// `None`: a tombstone.
    pub(super) payload: Option<&'a [u8]>,
}

/// Appends the record's row to `rows`.
///
/// # Errors
/// [`Invalid`] if the record is no alert of the device in its key, or holds a time that the table cannot. Nothing is
/// appended then.
pub(super) fn encode(record: &Record<'_>, rows: &mut Vec<u8>) -> Result<(), Invalid> {
    let Some(key) = record.key else {
        return Err(Invalid::new(
            Reason::BadKey,
            "the record has no key; it must be the 16 bytes of a device id",
        ));
    };
    let Ok(device) = DeviceId::try_from(key) else {
        let detail = format!("the key has {} bytes; it must be the 16 bytes of a device id", key.len());
        return Err(Invalid::new(Reason::BadKey, detail));
    };
    let Some(payload) = record.payload else {
        return Err(Invalid::new(Reason::Undecodable, "the record has no value"));
    };
    let alert = from_json(payload).map_err(|error| {
        let reason = match error {
            AlertJsonError::TooLarge { .. } => Reason::TooLarge,
            AlertJsonError::Malformed(_) => Reason::Undecodable,
        };
        Invalid::new(reason, error.to_string())
    })?;
    let checked = check(&alert, device)?;
    put(record, &alert, checked, rows);
    Ok(())
}

/// What was checked of an alert, in the table's types.
#[derive(Clone, Copy)]
struct Checked {
    id: Uuid,
    device: DeviceId,
    severity: AlertSeverity,
    state: AlertState,
}

/// Whether the table can hold the alert. Values may be NaN or infinite: they are what was measured, and are kept.
fn check(alert: &DeviceAlert, device: DeviceId) -> Result<Checked, Invalid> {
    let undecodable = |detail: String| Invalid::new(Reason::Undecodable, detail);
    if alert.device_id.parse() != Ok(device) {
        let detail = format!("deviceId is {:.60?}, the key's device is {device}", alert.device_id);
        return Err(Invalid::new(Reason::WrongDevice, detail));
    }
    let id = Uuid::try_parse(&alert.id)
        .map_err(|_| undecodable(format!("id is {:.60?}, which is no UUID", alert.id)))?;
    if alert.rule.is_empty() {
        return Err(undecodable("rule is empty".to_owned()));
    }
    let severity = AlertSeverity::try_from(alert.severity)
        .map_err(|_| undecodable(format!("severity {} has no name", alert.severity)))?;
    let state = AlertState::try_from(alert.state).ok().filter(|state| *state != AlertState::Unspecified);
    let state =
        state.ok_or_else(|| undecodable(format!("state {} is neither firing nor resolved", alert.state)))?;
    // A row expires some years after its onset, and that date must fit as well.
    within("onset", alert.onset, &(TIMESTAMP_MS_MIN..=TIMESTAMP_MS_MAX))?;
    within("time", alert.time, &DATETIME64_MS)?;
    within("windowStart", alert.window_start, &DATETIME64_MS)?;
    within("windowEnd", alert.window_end, &DATETIME64_MS)?;
    Ok(Checked { id, device, severity, state })
}

fn within(name: &str, ms: i64, range: &std::ops::RangeInclusive<i64>) -> Result<(), Invalid> {
    if ms < *range.start() {
        return Err(Invalid::new(Reason::TooOld, format!("{name} {ms} ms is before {} ms", range.start())));
    }
    if ms > *range.end() {
        return Err(Invalid::new(Reason::InFuture, format!("{name} {ms} ms is after {} ms", range.end())));
    }
    Ok(())
}

fn put(record: &Record<'_>, alert: &DeviceAlert, checked: Checked, rows: &mut Vec<u8>) {
    let Checked { id, device, severity, state } = checked;
    let raised_at_ms = record.timestamp_ms.clamp(0, *DATETIME64_MS.end());
    put_uuid(rows, id.into_bytes());
    put_text(rows, &alert.rule);
    put_uuid(rows, *device.as_bytes());
    // Both have names for less than ten numbers.
    rows.push(i32::from(severity).to_le_bytes()[0]);
    rows.push(i32::from(state).to_le_bytes()[0]);
    rows.extend_from_slice(&alert.repeat.to_le_bytes());
    put_text(rows, &alert.reason);
    for ms in [alert.onset, alert.time, raised_at_ms, alert.window_start, alert.window_end] {
        rows.extend_from_slice(&ms.to_le_bytes());
    }
    rows.extend_from_slice(&alert.reading_count.to_le_bytes());
    rows.extend_from_slice(&alert.value.to_le_bytes());
    rows.extend_from_slice(&alert.threshold.to_le_bytes());
    put_text(rows, &alert.text);
    rows.extend_from_slice(&alert.source_partition.to_le_bytes());
    rows.extend_from_slice(&alert.source_offset.to_le_bytes());
    put_text(rows, record.topic);
    rows.extend_from_slice(&record.partition.to_le_bytes());
    rows.extend_from_slice(&record.offset.to_le_bytes());
}

/// Two 64-bit halves, the more significant first, each little-endian.
fn put_uuid(rows: &mut Vec<u8>, mut bytes: [u8; 16]) {
    bytes[..8].reverse();
    bytes[8..].reverse();
    rows.extend_from_slice(&bytes);
}

/// A text behind its length, a varint of 7 bits a byte.
fn put_text(rows: &mut Vec<u8>, text: &str) {
    let mut bytes = text.len();
    while bytes >= 0x80 {
        rows.push(bytes.to_le_bytes()[0] | 0x80);
        bytes >>= 7;
    }
    rows.push(bytes.to_le_bytes()[0]);
    rows.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use penstock_proto::alert_json::to_json;
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 16] = [7; 16];

    fn alert() -> DeviceAlert {
        DeviceAlert {
            id: "0a1b2c3d-0000-4000-8000-0123456789ab".into(),
            rule: "hot".into(),
            device_id: DeviceId::from_bytes(KEY).to_string(),
            severity: AlertSeverity::Warning.into(),
            state: AlertState::Firing.into(),
            onset: 1_790_000_000_000,
            time: 1_790_000_000_000,
            ..DeviceAlert::default()
        }
    }

    fn of(key: Option<&[u8]>, payload: Option<&[u8]>) -> Result<Vec<u8>, Reason> {
        let mut rows = Vec::new();
        let record = Record { topic: "t", partition: 3, offset: 4, timestamp_ms: 5, key, payload };
        let encoded = encode(&record, &mut rows);
        assert_eq!(encoded.is_err(), rows.is_empty());
        encoded.map(|()| rows).map_err(|invalid| invalid.reason)
    }

    fn verdict(alert: &DeviceAlert) -> Result<(), Reason> {
        of(Some(&KEY), Some(to_json(alert).as_bytes())).map(drop)
    }

    #[test]
    fn an_alert_of_the_keys_device_becomes_a_row() {
        let row = of(Some(&KEY), Some(to_json(&alert()).as_bytes())).unwrap();
        assert_eq!(row[..8], [0x00, 0x40, 0x00, 0x00, 0x3d, 0x2c, 0x1b, 0x0a]);
        assert_eq!(row[16..20], *b"\x03hot");
        assert_eq!(row[36..38], [2, 1]);
        assert_eq!(row[row.len() - 12..], [1, b't', 3, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn values_that_are_no_numbers_are_kept() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(verdict(&DeviceAlert { value, threshold: value, ..alert() }), Ok(()));
        }
    }

    #[test]
    fn what_is_no_alert_is_refused_with_its_reason() {
        let good = to_json(&alert());
        assert_eq!(of(None, Some(good.as_bytes())), Err(Reason::BadKey));
        assert_eq!(of(Some(b"odd"), Some(good.as_bytes())), Err(Reason::BadKey));
        assert_eq!(of(Some(&[8; 16]), Some(good.as_bytes())), Err(Reason::WrongDevice));
        assert_eq!(of(Some(&KEY), None), Err(Reason::Undecodable));
        assert_eq!(of(Some(&KEY), Some(b"{")), Err(Reason::Undecodable));
        assert_eq!(of(Some(&KEY), Some(b"{}")), Err(Reason::WrongDevice));
        let long = vec![b' '; penstock_proto::alert_json::ALERT_JSON_BYTES_MAX + 1];
        assert_eq!(of(Some(&KEY), Some(&long)), Err(Reason::TooLarge));
        for alert in [
            DeviceAlert { id: "01989c8e".into(), ..alert() },
            DeviceAlert { rule: String::new(), ..alert() },
            DeviceAlert { severity: 77, ..alert() },
            DeviceAlert { state: 0, ..alert() },
            DeviceAlert { state: 3, ..alert() },
        ] {
            assert_eq!(verdict(&alert), Err(Reason::Undecodable), "{alert:?}");
        }
    }

    #[test]
    fn times_must_fit_their_columns() {
        for (onset, expected) in [
            (i64::MIN, Err(Reason::TooOld)),
            (0, Err(Reason::TooOld)),
            (1, Ok(())),
            (TIMESTAMP_MS_MAX, Ok(())),
            (TIMESTAMP_MS_MAX + 1, Err(Reason::InFuture)),
        ] {
            assert_eq!(verdict(&DeviceAlert { onset, ..alert() }), expected, "{onset}");
        }
        for (ms, expected) in [
            (DATETIME64_MS.start() - 1, Err(Reason::TooOld)),
            (*DATETIME64_MS.start(), Ok(())),
            (*DATETIME64_MS.end(), Ok(())),
            (i64::MAX, Err(Reason::InFuture)),
        ] {
            assert_eq!(verdict(&DeviceAlert { time: ms, ..alert() }), expected, "{ms}");
            assert_eq!(verdict(&DeviceAlert { window_start: ms, ..alert() }), expected, "{ms}");
            assert_eq!(verdict(&DeviceAlert { window_end: ms, ..alert() }), expected, "{ms}");
        }
    }

    proptest! {
        #[test]
        fn no_record_panics(
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
        ) {
            let _ = of(key.as_deref(), payload.as_deref());
        }
    }
}
