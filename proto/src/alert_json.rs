//! [`DeviceAlert`] as canonical proto3 JSON: what the alert topics carry.
//!
//! Written: every field, those with default values too, so that people and `grep` find the same keys in every record;
//! names in lowerCamelCase, 64-bit integers as strings, enums by name (by number where there is no name), NaN and
//! infinities as strings, one line.
//! Read: also the names of the `.proto` file, integers as numbers or strings, enums by number, `null` for a default.
//! Unknown fields are passed over; a field that stands there twice is refused.

use std::fmt::{self, Write as _};

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::Value;

use crate::v1::{AlertSeverity, AlertState, DeviceAlert};

/// Longest text that is read, in bytes; as much as a record of the alert topics may have.
pub const ALERT_JSON_BYTES_MAX: usize = 1024 * 1024;

/// A text is no alert.
#[derive(Debug, thiserror::Error)]
pub enum AlertJsonError {
    /// It is longer than an alert can be.
    #[error("{bytes} bytes are more than the {ALERT_JSON_BYTES_MAX} that an alert may have")]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// It is not the JSON of an alert.
    #[error("not a DeviceAlert as proto3 JSON: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// The alert as one line of JSON.
pub fn to_json(alert: &DeviceAlert) -> String {
    let mut json = String::with_capacity(480 + alert.text.len());
    let mut field = |name: &str, value: Value| {
        let lead = if json.is_empty() { '{' } else { ',' };
        // Writing to a String cannot fail.
        let _ = write!(json, "{lead}\"{name}\":{value}");
    };
    let long = |number: i64| Value::from(number.to_string());
    field("id", Value::from(&*alert.id));
    field("rule", Value::from(&*alert.rule));
    field("deviceId", Value::from(&*alert.device_id));
    let severity = AlertSeverity::try_from(alert.severity).ok().map(|severity| severity.as_str_name());
    field("severity", severity.map_or_else(|| Value::from(alert.severity), Value::from));
    let state = AlertState::try_from(alert.state).ok().map(|state| state.as_str_name());
    field("state", state.map_or_else(|| Value::from(alert.state), Value::from));
    field("onset", long(alert.onset));
    field("time", long(alert.time));
    field("windowStart", long(alert.window_start));
    field("windowEnd", long(alert.window_end));
    field("readingCount", Value::from(alert.reading_count));
    field("value", double(alert.value));
    field("threshold", double(alert.threshold));
    field("text", Value::from(&*alert.text));
    field("sourcePartition", Value::from(alert.source_partition));
    field("sourceOffset", long(alert.source_offset));
    field("reason", Value::from(&*alert.reason));
    field("repeat", Value::from(alert.repeat));
    json.push('}');
    json
}

/// The alert that `json` is.
///
/// # Errors
/// [`AlertJsonError`] for everything else, or for more than [`ALERT_JSON_BYTES_MAX`].
pub fn from_json(json: &[u8]) -> Result<DeviceAlert, AlertJsonError> {
    if json.len() > ALERT_JSON_BYTES_MAX {
        return Err(AlertJsonError::TooLarge { bytes: json.len() });
    }
    // serde would take the fields from a list, too.
    if json.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(<serde_json::Error as de::Error>::custom("it is no object").into());
    }
    let read: Read = serde_json::from_slice(json)?;
    Ok(DeviceAlert {
        id: read.id.unwrap_or_default(),
        rule: read.rule.unwrap_or_default(),
        device_id: read.device_id.unwrap_or_default(),
        severity: read.severity.0,
        state: read.state.0,
        onset: read.onset.0,
        time: read.time.0,
        window_start: read.window_start.0,
        window_end: read.window_end.0,
        reading_count: read.reading_count.0,
        value: read.value.0,
        threshold: read.threshold.0,
        text: read.text.unwrap_or_default(),
        source_partition: read.source_partition.0,
        source_offset: read.source_offset.0,
        reason: read.reason.unwrap_or_default(),
        repeat: read.repeat.0,
    })
}

/// NaN and infinities are strings, since JSON has no numbers for them.
fn double(number: f64) -> Value {
    match number {
        number if number.is_nan() => Value::from("NaN"),
        f64::INFINITY => Value::from("Infinity"),
        f64::NEG_INFINITY => Value::from("-Infinity"),
        number => Value::from(number),
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Read {
    id: Option<String>,
    rule: Option<String>,
    #[serde(alias = "device_id")]
    device_id: Option<String>,
    severity: Severity,
    state: State,
    onset: Integer<i64>,
    time: Integer<i64>,
    #[serde(alias = "window_start")]
    window_start: Integer<i64>,
    #[serde(alias = "window_end")]
    window_end: Integer<i64>,
    #[serde(alias = "reading_count")]
    reading_count: Integer<u32>,
    value: Double,
    threshold: Double,
    text: Option<String>,
    #[serde(alias = "source_partition")]
    source_partition: Integer<i32>,
    #[serde(alias = "source_offset")]
    source_offset: Integer<i64>,
    reason: Option<String>,
    repeat: Integer<u32>,
}

/// An integer, as a number or as a string.
#[derive(Default)]
struct Integer<T>(T);

#[derive(Default)]
struct Double(f64);

#[derive(Default)]
struct Severity(i32);

#[derive(Default)]
struct State(i32);

/// What stands for a field: `null` is its default.
enum Scalar {
    Null,
    Integer(i128),
    Float(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a string")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(number.into()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(number.into()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Scalar, E> {
                Ok(Scalar::Null)
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// Beyond 2^53 a float does not say which integer is meant.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

fn integer(scalar: Scalar) -> Option<i128> {
    let whole = |number: f64| {
        #[allow(clippy::cast_possible_truncation, reason = "it is a whole number below 2^53")]
        (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i128)
    };
    match scalar {
        Scalar::Null => Some(0),
        Scalar::Integer(number) => Some(number),
        Scalar::Float(number) => whole(number),
        Scalar::Text(text) => match text.parse::<i128>() {
            Ok(number) if !text.starts_with('+') => Some(number),
            _ => number(&text).and_then(whole),
        },
    }
}

/// A JSON number in a string; not what Rust takes besides, such as `inf` or `+1`.
fn number(text: &str) -> Option<f64> {
    text.ends_with(|last: char| last.is_ascii_digit()).then(|| serde_json::from_str(text).ok()).flatten()
}

impl<'de, T: TryFrom<i128>> Deserialize<'de> for Integer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = integer(Scalar::deserialize(deserializer)?).and_then(|number| T::try_from(number).ok());
        found.map(Self).ok_or_else(|| de::Error::custom("not an integer in the range of its field"))
    }
}

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = match Scalar::deserialize(deserializer)? {
            Scalar::Null => Some(0.0),
            #[allow(clippy::cast_precision_loss, reason = "a double is asked for")]
            Scalar::Integer(number) => Some(number as f64),
            Scalar::Float(number) => Some(number),
            Scalar::Text(text) => match &*text {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                text => number(text),
            },
        };
        found.map(Self).ok_or_else(|| de::Error::custom("neither a number nor NaN, Infinity or -Infinity"))
    }
}

/// An enum by name or by number; numbers without a name are kept.
fn enumeration<'de, D: Deserializer<'de>>(
    deserializer: D,
    by_name: impl FnOnce(&str) -> Option<i32>,
) -> Result<i32, D::Error> {
    match Scalar::deserialize(deserializer)? {
        Scalar::Text(name) => {
            by_name(&name).ok_or_else(|| de::Error::custom(format_args!("no such name: {name:.60?}")))
        }
        scalar => {
            let found = integer(scalar).and_then(|number| i32::try_from(number).ok());
            found.ok_or_else(|| de::Error::custom("not the number of an enum"))
        }
    }
}

impl<'de> Deserialize<'de> for Severity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        enumeration(deserializer, |name| AlertSeverity::from_str_name(name).map(i32::from)).map(Self)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        enumeration(deserializer, |name| AlertState::from_str_name(name).map(i32::from)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alert() -> DeviceAlert {
        DeviceAlert {
            id: "01989c8e".into(),
            rule: "SUSTAINED_HIGH_TEMPERATURE".into(),
            device_id: "0a1b2c3d-0000-4000-8000-0123456789ab".into(),
            severity: AlertSeverity::Critical.into(),
            state: AlertState::Firing.into(),
            onset: 1_790_000_000_123,
            time: 1_790_000_240_000,
            window_start: 1_790_000_000_000,
            window_end: 1_790_000_300_000,
            reading_count: 5,
            value: 85.5,
            threshold: 80.0,
            text: "85.5 °C \"over\" 80\n".into(),
            source_partition: 17,
            source_offset: 9_007_199_254_740_993,
            reason: String::new(),
            repeat: 0,
        }
    }

    #[test]
    fn every_field_is_written_in_its_canonical_form() {
        assert_eq!(
            to_json(&alert()),
            concat!(
                r#"{"id":"01989c8e","rule":"SUSTAINED_HIGH_TEMPERATURE","#,
                r#""deviceId":"0a1b2c3d-0000-4000-8000-0123456789ab","severity":"ALERT_SEVERITY_CRITICAL","#,
                r#""state":"ALERT_STATE_FIRING","onset":"1790000000123","time":"1790000240000","#,
                r#""windowStart":"1790000000000","windowEnd":"1790000300000","readingCount":5,"value":85.5,"#,
                r#""threshold":80.0,"text":"85.5 °C \"over\" 80\n","sourcePartition":17,"#,
                r#""sourceOffset":"9007199254740993","reason":"","repeat":0}"#
            )
        );
    }

    #[test]
    fn what_json_has_no_number_for_is_a_string() {
        let json = |value| to_json(&DeviceAlert { value, ..DeviceAlert::default() });
        assert!(json(f64::NAN).contains(r#""value":"NaN""#));
        assert!(json(f64::INFINITY).contains(r#""value":"Infinity""#));
        assert!(json(f64::NEG_INFINITY).contains(r#""value":"-Infinity""#));
        assert!(json(-0.0).contains(r#""value":-0.0"#));
        let unnamed = DeviceAlert { severity: 77, ..DeviceAlert::default() };
        assert!(to_json(&unnamed).contains(r#""severity":77,"state":"ALERT_STATE_UNSPECIFIED""#));
        assert_eq!(from_json(to_json(&unnamed).as_bytes()).unwrap(), unnamed);
    }

    #[test]
    fn other_spellings_that_proto3_json_allows_are_read() {
        let spelled = concat!(
            r#" {"source_offset": 9007199254740993, "onset": "1790000000123", "window_start": 1.79e12, "#,
            r#""severity": 3, "state": "ALERT_STATE_FIRING", "value": "85.5", "threshold": 80, "text": null, "#,
            r#""reading_count": "5", "repeat": null, "device_id": "d", "more": {"x": [1, {"y": null}]}} "#
        );
        let read = from_json(spelled.as_bytes()).unwrap();
        let expected = DeviceAlert {
            source_offset: 9_007_199_254_740_993,
            onset: 1_790_000_000_123,
            window_start: 1_790_000_000_000,
            severity: 3,
            state: 1,
            value: 85.5,
            threshold: 80.0,
            reading_count: 5,
            device_id: "d".into(),
            ..DeviceAlert::default()
        };
        assert_eq!(read, expected);
        assert_eq!(from_json(b"{}").unwrap(), DeviceAlert::default());
    }

    #[test]
    fn what_is_no_alert_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            " [\"id\"]",
            "7",
            "{",
            "{} {}",
            r#"{"id": 7}"#,
            r#"{"id": "a", "id": "b"}"#,
            r#"{"deviceId": "a", "device_id": "b"}"#,
            r#"{"onset": "soon"}"#,
            r#"{"onset": 1.5}"#,
            r#"{"onset": "9223372036854775808"}"#,
            r#"{"onset": true}"#,
            r#"{"repeat": -1}"#,
            r#"{"sourcePartition": 2147483648}"#,
            r#"{"severity": "FATAL"}"#,
            r#"{"severity": 1e40}"#,
            r#"{"state": []}"#,
            r#"{"value": "inf"}"#,
            r#"{"value": NaN}"#,
            "{\"text\": \"\u{1}\"}",
        ] {
            assert!(from_json(text.as_bytes()).is_err(), "{text}");
        }
        assert!(from_json(b"{\"id\": \"\xff\"}").is_err(), "not UTF-8");
        let nested = format!("{{\"x\": {}}}", "[".repeat(10_000));
        assert!(from_json(nested.as_bytes()).is_err());
        let long = format!("{{\"text\": \"{}\"}}", "x".repeat(ALERT_JSON_BYTES_MAX));
        assert!(matches!(from_json(long.as_bytes()), Err(AlertJsonError::TooLarge { .. })));
    }

    prop_compose! {
        fn any_alert()(
            texts in [any::<String>(), any::<String>(), any::<String>(), any::<String>(), any::<String>()],
            enums in any::<[i32; 2]>(),
            times in any::<[i64; 5]>(),
            counts in any::<[u32; 2]>(),
            doubles in any::<[f64; 2]>(),
            source_partition in any::<i32>(),
        ) -> DeviceAlert {
            let [id, rule, device_id, text, reason] = texts;
            let [onset, time, window_start, window_end, source_offset] = times;
            DeviceAlert {
                id, rule, device_id, severity: enums[0].rem_euclid(6), state: enums[1], onset, time, window_start,
                window_end, reading_count: counts[0], value: doubles[0], threshold: doubles[1], text,
                source_partition, source_offset, reason, repeat: counts[1],
            }
        }
    }

    proptest! {
        #[test]
        fn an_alert_is_read_as_it_was_written(alert in any_alert()) {
            let json = to_json(&alert);
            prop_assert!(!json.contains('\n'));
            let read = from_json(json.as_bytes()).unwrap();
            prop_assert_eq!(read.value.to_bits(), alert.value.to_bits());
            prop_assert_eq!(read, alert);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_json(&bytes);
        }

        #[test]
        fn no_text_in_place_of_a_value_panics(value in ".{0,40}", field in "onset|value|severity|repeat") {
            let _ = from_json(format!("{{\"{field}\": {value}}}").as_bytes());
            let _ = from_json(format!("{{\"{field}\": {}}}", Value::from(value)).as_bytes());
        }
    }
}
