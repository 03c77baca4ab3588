//! A payload field by field, as far as it can be read: for people who want to know what a device sent. Pure.
//!
//! By the same rules as [`penstock_proto::wire`], which reads only what is whole and does not say where it failed.

use penstock_proto::DeviceId;
use penstock_proto::alert_json::{AlertJsonError, from_json};
use serde::Serialize;

use crate::rfc3339;
use crate::text::printable;

/// Fields that are described; more are counted.
const FIELDS_MAX: usize = 200;
/// Characters of a text or of bytes that are shown.
const VALUE_CHARS_MAX: usize = 80;

/// What a message is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Reading,
    Batch,
}

/// A field that could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Field {
    /// Where it begins, in bytes from the beginning of the payload.
    pub(crate) at: usize,
    /// Its number in the message it is in.
    pub(crate) number: u32,
    /// Its name in the contract, after those of the fields it is in.
    pub(crate) name: String,
    /// Its value, with its unit.
    pub(crate) value: String,
}

/// Where and why reading ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Trouble {
    /// The byte at which the field begins that cannot be read.
    pub(crate) at: usize,
    /// Its number, where that could be read.
    pub(crate) field: Option<u32>,
    /// What is wrong.
    pub(crate) why: String,
}

/// A payload as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Decoded {
    /// The first 200 fields.
    pub(crate) fields: Vec<Field>,
    /// How many more there are.
    pub(crate) more: usize,
    /// `None` where it was read to its end.
    pub(crate) trouble: Option<Trouble>,
}

impl Decoded {
    /// Reads a payload.
    pub(crate) fn of(payload: &[u8], kind: Kind) -> Self {
        let mut decoded = Self::default();
        let ended = match kind {
            Kind::Reading => decoded.reading(payload, 0, ""),
            Kind::Batch => decoded.batch(payload),
        };
        decoded.trouble = ended.err();
        decoded
    }

    /// Reads the JSON of an alert: no fields, only what is wrong with it. It is text, and is shown as such.
    pub(crate) fn of_alert(payload: &[u8]) -> Self {
        let trouble = |error: AlertJsonError| {
            let at = match &error {
                AlertJsonError::Malformed(json) if json.line() == 1 => json.column().saturating_sub(1),
                _ => 0,
            };
            Trouble { at, field: None, why: error.to_string() }
        };
        Self { trouble: from_json(payload).err().map(trouble), ..Self::default() }
    }

    fn batch(&mut self, payload: &[u8]) -> Result<(), Trouble> {
        let mut count = 0;
        fields(payload, 0, |field| {
            if field.number == 1 {
                let (bytes, at) = field.message()?;
                self.reading(bytes, at, &format!("readings[{count}]."))?;
                count += 1;
            } else {
                self.add(&field, "(unknown)".to_owned(), raw(&field.value));
            }
            Ok(())
        })
    }

    fn reading(&mut self, message: &[u8], base: usize, within: &str) -> Result<(), Trouble> {
        fields(message, base, |field| {
            let (name, value) = match field.number {
                1 => ("device_id", device_id(field.bytes()?)),
                2 => ("timestamp", timestamp(field.varint()?.cast_signed())),
                3 => ("temperature", format!("{} °C", field.float()?)),
                4 => ("humidity", format!("{} %", field.float()?)),
                5 => ("pressure", format!("{} hPa", field.float()?)),
                #[allow(clippy::cast_possible_truncation, reason = "int32 is the low 32 bits of the varint")]
                6 => ("battery_level", format!("{} %", (field.varint()? as u32).cast_signed())),
                7 => ("sequence", field.varint()?.to_string()),
                8 => {
                    let (name, value) = metric(&field)?;
                    self.add(&field, format!("{within}metrics[{name:?}]"), value.to_string());
                    return Ok(());
                }
                _ => ("(unknown)", raw(&field.value)),
            };
            self.add(&field, format!("{within}{name}"), value);
            Ok(())
        })
    }

    fn add(&mut self, field: &Raw<'_>, name: String, value: String) {
        if self.fields.len() < FIELDS_MAX {
            self.fields.push(Field { at: field.at, number: field.number, name, value });
        } else {
            self.more += 1;
        }
    }
}

fn metric(field: &Raw<'_>) -> Result<(String, f64), Trouble> {
    let (entry, at) = field.message()?;
    let (mut name, mut value) = (String::new(), 0.0);
    fields(entry, at, |field| {
        match field.number {
            1 => {
                let bytes = field.bytes()?;
                if std::str::from_utf8(bytes).is_err() {
                    return Err(field.trouble("the name of a metric is not UTF-8".to_owned()));
                }
                name = printable(bytes, VALUE_CHARS_MAX);
            }
            2 => value = field.double()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((name, value))
}

fn device_id(bytes: &[u8]) -> String {
    match DeviceId::try_from(bytes) {
        Ok(device) => device.to_string(),
        Err(_) => format!("{} bytes, not 16: {}", bytes.len(), hex(bytes)),
    }
}

fn timestamp(ms: i64) -> String {
    format!("{ms} ms ({})", rfc3339(ms))
}

fn hex(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().take(VALUE_CHARS_MAX / 2).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > VALUE_CHARS_MAX / 2 { format!("{shown}…") } else { shown }
}

fn raw(value: &Value<'_>) -> String {
    match value {
        Value::Varint(number) => format!("varint {number}"),
        Value::Fixed64(bytes) => format!("fixed64 {}", u64::from_le_bytes(*bytes)),
        Value::Fixed32(bytes) => format!("fixed32 {}", u32::from_le_bytes(*bytes)),
        Value::Bytes(bytes) => format!("{} bytes: {}", bytes.len(), hex(bytes)),
    }
}

/// A value as the wire has it.
enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

/// A field as the wire has it.
struct Raw<'a> {
    at: usize,
    /// Where its content begins, for fields with a length.
    content_at: usize,
    number: u32,
    value: Value<'a>,
}

impl<'a> Raw<'a> {
    fn trouble(&self, why: String) -> Trouble {
        Trouble { at: self.at, field: Some(self.number), why }
    }

    fn mismatch(&self, expected: &str) -> Trouble {
        self.trouble(format!("{} where the contract has {expected}", raw(&self.value)))
    }

    fn varint(&self) -> Result<u64, Trouble> {
        if let Value::Varint(value) = self.value { Ok(value) } else { Err(self.mismatch("a varint")) }
    }

    fn float(&self) -> Result<f32, Trouble> {
        if let Value::Fixed32(bytes) = self.value {
            Ok(f32::from_le_bytes(bytes))
        } else {
            Err(self.mismatch("a float"))
        }
    }

    fn double(&self) -> Result<f64, Trouble> {
        if let Value::Fixed64(bytes) = self.value {
            Ok(f64::from_le_bytes(bytes))
        } else {
            Err(self.mismatch("a double"))
        }
    }

    fn bytes(&self) -> Result<&'a [u8], Trouble> {
        if let Value::Bytes(bytes) = self.value { Ok(bytes) } else { Err(self.mismatch("bytes")) }
    }

    fn message(&self) -> Result<(&'a [u8], usize), Trouble> {
        self.bytes().map(|bytes| (bytes, self.content_at))
    }
}

/// Reads the fields of a message that begins at byte `base` of the payload.
fn fields(
    message: &[u8],
    base: usize,
    mut each: impl FnMut(Raw<'_>) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let mut reader = Reader { rest: message };
    while !reader.rest.is_empty() {
        let at = base + message.len() - reader.rest.len();
        let trouble = |field, why: &str| Trouble { at, field, why: why.to_owned() };
        let key = reader.varint().map_err(|why| trouble(None, why))?;
        let number = u32::try_from(key >> 3).unwrap_or(u32::MAX);
        if number == 0 || number >= 1 << 29 {
            return Err(trouble(None, "a field number is outside 1 to 536870911"));
        }
        let value = reader.value(key & 7).map_err(|why| trouble(Some(number), why))?;
        let end = base + message.len() - reader.rest.len();
        let content_at = if let Value::Bytes(bytes) = value { end - bytes.len() } else { end };
        each(Raw { at, content_at, number, value })?;
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a [u8],
}

const CUT_OFF: &str = "the message ends inside of it";

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for index in 0..10 {
            let (byte, rest) = self.rest.split_first().ok_or(CUT_OFF)?;
            self.rest = rest;
            if index == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a varint does not fit in 64 bits")
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(*head)
    }

    fn value(&mut self, wire_type: u64) -> Result<Value<'a>, &'static str> {
        Ok(match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| CUT_OFF)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(CUT_OFF)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(self.take()?),
            _ => return Err("its wire type is a group, or none at all"),
        })
    }
}

#[cfg(test)]
mod tests {
    use penstock_proto::v1::{ReadingBatch, SensorReading};
    use penstock_proto::{ReadingView, wire};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn reading() -> SensorReading {
        SensorReading {
            device_id: vec![7; 16],
            timestamp: 1_790_000_000_000,
            temperature: Some(-21.5),
            battery_level: Some(87),
            sequence: 3,
            metrics: [("wind_speed".to_owned(), 4.25)].into(),
            ..Default::default()
        }
    }

    fn named(decoded: &Decoded) -> Vec<(&str, &str)> {
        decoded.fields.iter().map(|field| (field.name.as_str(), field.value.as_str())).collect()
    }

    #[test]
    fn fields_have_names_and_units() {
        let decoded = Decoded::of(&reading().encode_to_vec(), Kind::Reading);
        assert_eq!(decoded.trouble, None);
        assert_eq!(
            named(&decoded),
            [
                ("device_id", "07070707-0707-0707-0707-070707070707"),
                ("timestamp", "1790000000000 ms (2026-09-21T14:13:20.000Z)"),
                ("temperature", "-21.5 °C"),
                ("battery_level", "87 %"),
                ("sequence", "3"),
                ("metrics[\"wind_speed\"]", "4.25"),
            ]
        );
    }

    #[test]
    fn what_was_read_before_an_error_is_shown_and_the_error_says_where() {
        let mut bytes = reading().encode_to_vec();
        let whole = Decoded::of(&bytes, Kind::Reading);
        let last = whole.fields.last().unwrap().at;
        bytes.truncate(last + 5);
        let decoded = Decoded::of(&bytes, Kind::Reading);
        assert_eq!(decoded.fields, whole.fields[..5]);
        let trouble = decoded.trouble.unwrap();
        assert_eq!((trouble.at, trouble.field, trouble.why.as_str()), (last, Some(8), CUT_OFF));
    }

    #[test]
    fn bytes_inside_a_batch_are_counted_from_its_beginning() {
        let mut second = reading().encode_to_vec();
        // The timestamp as a fixed64.
        second.extend([0x11, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut bytes = ReadingBatch { readings: vec![reading()] }.encode_to_vec();
        let at = bytes.len() + 2 + second.len() - 9;
        bytes.extend([0x0a, u8::try_from(second.len()).unwrap()]);
        bytes.extend(&second);
        let decoded = Decoded::of(&bytes, Kind::Batch);
        assert_eq!(decoded.fields.len(), 12);
        assert_eq!(decoded.fields[6].name, "readings[1].device_id");
        let trouble = decoded.trouble.unwrap();
        assert_eq!((trouble.at, trouble.field), (at, Some(2)));
        assert_eq!(trouble.why, "fixed64 0 where the contract has a varint");
    }

    #[test]
    fn unknown_fields_are_shown_and_many_are_counted() {
        let bytes = [0x7a, 3, 9, 9, 9].repeat(300);
        let decoded = Decoded::of(&bytes, Kind::Reading);
        assert_eq!((decoded.fields.len(), decoded.more), (FIELDS_MAX, 100));
        assert_eq!((decoded.fields[0].number, decoded.fields[0].value.as_str()), (15, "3 bytes: 090909"));
    }

    proptest! {
        #[test]
        fn what_can_be_read_here_can_be_read_there(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = reading().encode_to_vec();
            for (index, byte) in flips {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(1 + cut.index(bytes.len()));
            let decoded = Decoded::of(&bytes, Kind::Reading);
            prop_assert_eq!(decoded.trouble.is_none(), ReadingView::decode(&bytes).is_ok());
        }

        #[test]
        fn any_bytes_are_described(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let reading = Decoded::of(&bytes, Kind::Reading);
            prop_assert_eq!(reading.trouble.is_none(), ReadingView::decode(&bytes).is_ok());
            let batch = Decoded::of(&bytes, Kind::Batch);
            let split = wire::split_batch(&bytes).all(|part| part.is_ok_and(|part| ReadingView::decode(part).is_ok()));
            prop_assert_eq!(batch.trouble.is_none(), split);
        }
    }
}
