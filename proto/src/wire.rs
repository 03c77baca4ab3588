//! Reads the protobuf wire format of readings in place: no allocation, no copy, one pass.
//!
//! The gateway looks at every reading only to judge it, and the writer only to move its fields into columns; neither
//! needs an owned message with a map inside. Unknown fields are skipped, the last of repeated scalars wins, as the
//! protobuf encoding asks. A known field with another wire type is an error here (other decoders treat it as
//! unknown), because a measurement that silently vanishes is worse than a dead letter. Groups are refused.

/// The bytes are not a message of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// A varint is longer than 10 bytes or exceeds 64 bits.
    #[error("a varint does not fit in 64 bits")]
    VarintTooLong,
    /// Field number 0, or one above 2^29 - 1.
    #[error("a field number is outside 1 to 536870911")]
    FieldNumber,
    /// A wire type that does not exist, or a group.
    #[error("field {field} has wire type {wire_type}, which is not supported")]
    WireType {
        /// The field's number.
        field: u32,
        /// The wire type found, 0 to 7.
        wire_type: u8,
    },
    /// A field of the contract has another wire type than the contract's.
    #[error("field {field} has wire type {found} where the contract has {expected}")]
    FieldType {
        /// The field's number.
        field: u32,
        /// The wire type found.
        found: u8,
        /// The wire type of the contract.
        expected: u8,
    },
    /// A name in `metrics` is not UTF-8.
    #[error("the name of a metric is not UTF-8")]
    MetricNameUtf8,
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// A field's value as the wire has it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

impl<'a> Value<'a> {
    const fn wire_type(&self) -> u8 {
        match self {
            Self::Varint(_) => VARINT,
            Self::Fixed64(_) => FIXED64,
            Self::Bytes(_) => LENGTH,
            Self::Fixed32(_) => FIXED32,
        }
    }

    const fn mismatch(&self, field: u32, expected: u8) -> DecodeError {
        DecodeError::FieldType { field, found: self.wire_type(), expected }
    }

    const fn varint(self, field: u32) -> Result<u64, DecodeError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(self.mismatch(field, VARINT)),
        }
    }

    const fn float(self, field: u32) -> Result<f32, DecodeError> {
        match self {
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.mismatch(field, FIXED32)),
        }
    }

    const fn double(self, field: u32) -> Result<f64, DecodeError> {
        match self {
            Self::Fixed64(bytes) => Ok(f64::from_le_bytes(bytes)),
            _ => Err(self.mismatch(field, FIXED64)),
        }
    }

    const fn bytes(self, field: u32) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(self.mismatch(field, LENGTH)),
        }
    }
}

/// The fields of one message, in the order of the wire.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, DecodeError> {
        if let [byte @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            if index == 9 && byte > 1 {
                return Err(DecodeError::VarintTooLong);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() >= 10 { DecodeError::VarintTooLong } else { DecodeError::Truncated })
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).unwrap_or(u32::MAX);
        if field == 0 || field >= 1 << 29 {
            return Err(DecodeError::FieldNumber);
        }
        #[allow(clippy::cast_possible_truncation, reason = "three bits")]
        let wire_type = (key & 7) as u8;
        let value = match wire_type {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => Value::Fixed64(self.take()?),
            LENGTH => {
                let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
                let (bytes, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            FIXED32 => Value::Fixed32(self.take()?),
            _ => return Err(DecodeError::WireType { field, wire_type }),
        };
        Ok(Some((field, value)))
    }
}

/// A `penstock.v1.SensorReading`, read in place.
#[derive(Clone, Copy, Debug)]
pub struct ReadingView<'a> {
    /// `device_id`; empty where the payload leaves it out.
    pub device_id: &'a [u8],
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Degrees Celsius.
    pub temperature: Option<f32>,
    /// Relative humidity in %.
    pub humidity: Option<f32>,
    /// Hectopascal.
    pub pressure: Option<f32>,
    /// Charge in %.
    pub battery_level: Option<i32>,
    /// The device's own count.
    pub sequence: u64,
    /// Entries in `metrics`, repeated names included.
    pub metrics_len: usize,
    message: &'a [u8],
}

impl<'a> ReadingView<'a> {
    /// Reads one encoded `SensorReading`.
    ///
    /// # Errors
    /// [`DecodeError`] where the bytes are not one.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut view = Self {
            device_id: &[],
            timestamp_ms: 0,
            temperature: None,
            humidity: None,
            pressure: None,
            battery_level: None,
            sequence: 0,
            metrics_len: 0,
            message,
        };
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => view.device_id = value.bytes(field)?,
                2 => view.timestamp_ms = value.varint(field)?.cast_signed(),
                3 => view.temperature = Some(value.float(field)?),
                4 => view.humidity = Some(value.float(field)?),
                5 => view.pressure = Some(value.float(field)?),
                #[allow(clippy::cast_possible_truncation, reason = "int32 is the low 32 bits of the varint")]
                6 => view.battery_level = Some((value.varint(field)? as u32).cast_signed()),
                7 => view.sequence = value.varint(field)?,
                8 => {
                    metric_entry(value.bytes(field)?)?;
                    view.metrics_len += 1;
                }
                _ => {}
            }
        }
        Ok(view)
    }

    /// The entries of `metrics` in the order of the wire; of a repeated name the last counts.
    pub fn metrics(&self) -> impl Iterator<Item = (&'a str, f64)> + use<'a> {
        let mut fields = Fields::new(if self.metrics_len == 0 { &[] } else { self.message });
        std::iter::from_fn(move || {
            // `decode` has read every field once, so no error can come up here.
            while let Ok(Some((field, value))) = fields.next() {
                if let (8, Value::Bytes(entry)) = (field, value) {
                    return metric_entry(entry).ok();
                }
            }
            None
        })
    }

    /// The encoded message itself.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.message
    }
}

fn metric_entry(entry: &[u8]) -> Result<(&str, f64), DecodeError> {
    let (mut name, mut number) = ("", 0.0);
    let mut fields = Fields::new(entry);
    while let Some((field, value)) = fields.next()? {
        match field {
            // Checked each time, like every protobuf decoder does, though only the last one counts.
            1 => name = std::str::from_utf8(value.bytes(field)?).map_err(|_| DecodeError::MetricNameUtf8)?,
            2 => number = value.double(field)?,
            _ => {}
        }
    }
    Ok((name, number))
}

/// The encoded readings inside an encoded `penstock.v1.ReadingBatch`, in order, each as its own bytes.
///
/// After an error the iterator ends.
pub fn split_batch(batch: &[u8]) -> impl Iterator<Item = Result<&[u8], DecodeError>> {
    let mut fields = Fields::new(batch);
    let mut failed = false;
    std::iter::from_fn(move || {
        while !failed {
            match fields.next() {
                Ok(None) => return None,
                Ok(Some((1, value))) => {
                    let reading = value.bytes(1);
                    failed = reading.is_err();
                    return Some(reading);
                }
                Ok(Some(_)) => {}
                Err(error) => {
                    failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::v1::{ReadingBatch, SensorReading};

    fn reading() -> impl Strategy<Value = SensorReading> {
        (
            prop_oneof![Just(vec![]), proptest::collection::vec(any::<u8>(), 16)],
            any::<i64>(),
            any::<(Option<f32>, Option<f32>, Option<f32>, Option<i32>, u64)>(),
            proptest::collection::btree_map(".{0,12}", any::<f64>(), 0..6),
        )
            .prop_map(|(device_id, timestamp, rest, metrics)| SensorReading {
                device_id,
                timestamp,
                temperature: rest.0,
                humidity: rest.1,
                pressure: rest.2,
                battery_level: rest.3,
                sequence: rest.4,
                metrics,
            })
    }

    fn same(view: &ReadingView<'_>, message: &SensorReading) -> Result<(), TestCaseError> {
        prop_assert_eq!(view.device_id, &message.device_id[..]);
        prop_assert_eq!(view.timestamp_ms, message.timestamp);
        prop_assert_eq!(view.temperature.map(f32::to_bits), message.temperature.map(f32::to_bits));
        prop_assert_eq!(view.humidity.map(f32::to_bits), message.humidity.map(f32::to_bits));
        prop_assert_eq!(view.pressure.map(f32::to_bits), message.pressure.map(f32::to_bits));
        prop_assert_eq!(view.battery_level, message.battery_level);
        prop_assert_eq!(view.sequence, message.sequence);
        // prost leaves -0.0 out of a map entry as if it were the default; adding 0.0 makes it the 0.0 that is read.
        let bits = |value: f64| (value + 0.0).to_bits();
        let metrics: std::collections::BTreeMap<_, _> =
            view.metrics().map(|(name, value)| (name.to_owned(), bits(value))).collect();
        let expected = message.metrics.iter().map(|(name, value)| (name.clone(), bits(*value))).collect();
        prop_assert_eq!(metrics, expected);
        Ok(())
    }

    proptest! {
        #[test]
        fn what_prost_encodes_reads_the_same(message in reading()) {
            let bytes = message.encode_to_vec();
            same(&ReadingView::decode(&bytes).unwrap(), &message)?;
        }

        #[test]
        fn bytes_that_are_accepted_mean_the_same_to_prost(
            message in reading(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = message.encode_to_vec();
            if !bytes.is_empty() {
                for (index, byte) in flips {
                    let at = index.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes.truncate(1 + cut.index(bytes.len()));
            }
            if let Ok(view) = ReadingView::decode(&bytes) {
                same(&view, &SensorReading::decode(&bytes[..]).unwrap())?;
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(view) = ReadingView::decode(&bytes) {
                let _ = view.metrics().count();
            }
            let _ = split_batch(&bytes).count();
        }

        #[test]
        fn a_batch_splits_into_the_bytes_of_its_readings(readings in proptest::collection::vec(reading(), 0..5)) {
            let bytes = ReadingBatch { readings: readings.clone() }.encode_to_vec();
            let parts: Vec<_> = split_batch(&bytes).collect::<Result<_, _>>().unwrap();
            let expected: Vec<_> = readings.iter().map(Message::encode_to_vec).collect();
            prop_assert_eq!(parts, expected);
        }
    }

    #[test]
    fn a_known_field_of_another_wire_type_is_an_error() {
        // Field 2 (timestamp) as a fixed64.
        let bytes = [0x11, 0, 0, 0, 0, 0, 0, 0, 0];
        let error = ReadingView::decode(&bytes).unwrap_err();
        assert_eq!(error, DecodeError::FieldType { field: 2, found: FIXED64, expected: VARINT });
    }

    #[test]
    fn unknown_fields_are_skipped_and_the_last_scalar_wins() {
        // sequence = 1, unknown field 15 = 3 bytes, sequence = 2
        let bytes = [0x38, 1, 0x7a, 3, 9, 9, 9, 0x38, 2];
        assert_eq!(ReadingView::decode(&bytes).unwrap().sequence, 2);
    }

    #[test]
    fn a_message_that_ends_early_is_truncated() {
        for bytes in [&[0x10][..], &[0x10, 0x80], &[0x0a, 5, 1], &[0x1d, 0, 0], &[0x11, 1]] {
            assert_eq!(ReadingView::decode(bytes).unwrap_err(), DecodeError::Truncated, "{bytes:?}");
        }
    }

    #[test]
    fn field_numbers_varints_and_groups_have_limits() {
        assert_eq!(ReadingView::decode(&[0x00]).unwrap_err(), DecodeError::FieldNumber);
        let long = [0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(ReadingView::decode(&long).unwrap_err(), DecodeError::VarintTooLong);
        let error = ReadingView::decode(&[0x7b]).unwrap_err();
        assert_eq!(error, DecodeError::WireType { field: 15, wire_type: 3 });
    }
}
