//! Readings as a block of ClickHouse's Native format: a buffer for each column, filled a row at a time.
//!
//! Allocates nothing for a row once its buffers have grown, and never does I/O. The layout of a block is: columns,
//! rows (both varints), then for each column its name, its type and the values of all rows, little-endian.

mod block;
mod put;

use penstock_proto::{DeviceId, ReadingView};

pub use block::Block;
use put::{NullableF32, NullableU8, put_string, put_varint, varint_bytes};

/// The columns of a block, in the order they are sent: name and type.
///
/// Names and types are those of the table `readings`, so the server casts nothing.
pub const COLUMNS: [(&str, &str); 11] = [
    ("device_id", "UUID"),
    ("timestamp", "DateTime64(3, 'UTC')"),
    ("sequence", "UInt64"),
    ("temperature", "Nullable(Float32)"),
    ("humidity", "Nullable(Float32)"),
    ("pressure", "Nullable(Float32)"),
    ("battery_level", "Nullable(UInt8)"),
    ("metrics", "Map(String, Float64)"),
    ("received_at", "DateTime64(3, 'UTC')"),
    ("kafka_partition", "UInt16"),
    ("kafka_offset", "UInt64"),
];

/// Bytes of a row without its metrics: 16 + 8 + 8 + 3 * (1 + 4) + (1 + 1) + 8 + 8 + 2 + 8.
pub const ROW_BYTES_MIN: usize = 75;

/// More metrics than this in one reading are searched for repeated names by hashing instead of one by one.
const METRICS_COMPARED_MAX: usize = 16;

/// One reading as it becomes a row.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The device: the record's key.
    pub device: DeviceId,
    /// The reading. `battery_level` must lie in 0 to 255; anything else becomes NULL.
    pub reading: &'a ReadingView<'a>,
    /// When the gateway received it, in milliseconds since the Unix epoch.
    pub received_at_ms: i64,
    /// Partition of the Kafka record.
    pub kafka_partition: u16,
    /// Offset of the Kafka record.
    pub kafka_offset: u64,
}

/// Rows by column. Reuse one for many blocks: [`clear`](Self::clear) keeps the buffers.
#[derive(Debug, Default)]
pub struct Rows {
    rows: usize,
    device_id: Vec<u8>,
    timestamp: Vec<u8>,
    sequence: Vec<u8>,
    temperature: NullableF32,
    humidity: NullableF32,
    pressure: NullableF32,
    battery_level: NullableU8,
    metrics: Metrics,
    received_at: Vec<u8>,
    kafka_partition: Vec<u8>,
    kafka_offset: Vec<u8>,
}

impl Rows {
    /// How many rows there are.
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of the rows in a block, without its header of about 250 bytes.
    pub const fn bytes(&self) -> usize {
        self.rows * ROW_BYTES_MIN + self.metrics.bytes()
    }

    /// Bytes that the buffers hold on to.
    pub const fn capacity_bytes(&self) -> usize {
        self.device_id.capacity()
            + self.timestamp.capacity()
            + self.sequence.capacity()
            + self.temperature.capacity_bytes()
            + self.humidity.capacity_bytes()
            + self.pressure.capacity_bytes()
            + self.battery_level.capacity_bytes()
            + self.metrics.capacity_bytes()
            + self.received_at.capacity()
            + self.kafka_partition.capacity()
            + self.kafka_offset.capacity()
    }

    /// Adds a row.
    #[inline]
    pub fn push(&mut self, row: &Row<'_>) {
        let reading = row.reading;
        self.rows += 1;
        self.device_id.extend_from_slice(&uuid_bytes(row.device));
        self.timestamp.extend_from_slice(&reading.timestamp_ms.to_le_bytes());
        self.sequence.extend_from_slice(&reading.sequence.to_le_bytes());
        self.temperature.push(reading.temperature);
        self.humidity.push(reading.humidity);
        self.pressure.push(reading.pressure);
        self.battery_level.push(reading.battery_level.and_then(|level| u8::try_from(level).ok()));
        self.metrics.push(reading);
        self.received_at.extend_from_slice(&row.received_at_ms.to_le_bytes());
        self.kafka_partition.extend_from_slice(&row.kafka_partition.to_le_bytes());
        self.kafka_offset.extend_from_slice(&row.kafka_offset.to_le_bytes());
    }

    /// Appends the block to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.bytes() + 512);
        put_varint(out, COLUMNS.len() as u64);
        put_varint(out, self.rows as u64);
        for (column, (name, kind)) in COLUMNS.iter().enumerate() {
            put_string(out, name);
            put_string(out, kind);
            match column {
                0 => out.extend_from_slice(&self.device_id),
                1 => out.extend_from_slice(&self.timestamp),
                2 => out.extend_from_slice(&self.sequence),
                3 => self.temperature.encode(out),
                4 => self.humidity.encode(out),
                5 => self.pressure.encode(out),
                6 => self.battery_level.encode(out),
                7 => self.metrics.encode(out),
                8 => out.extend_from_slice(&self.received_at),
                9 => out.extend_from_slice(&self.kafka_partition),
                _ => out.extend_from_slice(&self.kafka_offset),
            }
        }
    }

    /// Removes all rows and keeps the buffers.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.device_id.clear();
        self.timestamp.clear();
        self.sequence.clear();
        self.temperature.clear();
        self.humidity.clear();
        self.pressure.clear();
        self.battery_level.clear();
        self.metrics.clear();
        self.received_at.clear();
        self.kafka_partition.clear();
        self.kafka_offset.clear();
    }
}

/// ClickHouse keeps a UUID as two 64-bit halves, the more significant first, each little-endian.
#[inline]
fn uuid_bytes(device: DeviceId) -> [u8; 16] {
    let mut bytes = *device.as_bytes();
    bytes[..8].reverse();
    bytes[8..].reverse();
    bytes
}

/// `Map(String, Float64)`: for each row the count of entries up to its end, then all names, then all values.
#[derive(Debug, Default)]
struct Metrics {
    entries: u64,
    ends: Vec<u8>,
    names: Vec<u8>,
    values: Vec<u8>,
}

impl Metrics {
    #[inline]
    fn push(&mut self, reading: &ReadingView<'_>) {
        if reading.metrics_len != 0 {
            self.push_entries(reading);
        }
        self.ends.extend_from_slice(&self.entries.to_le_bytes());
    }

    /// A map may hold a name only once, and of a repeated name protobuf lets the last count.
    fn push_entries(&mut self, reading: &ReadingView<'_>) {
        let (first_name, first_value) = (self.names.len(), self.values.len());
        if reading.metrics_len > METRICS_COMPARED_MAX {
            let unique: std::collections::BTreeMap<&str, f64> = reading.metrics().collect();
            unique.into_iter().for_each(|(name, value)| self.push_entry(name, value));
            return;
        }
        for (name, value) in reading.metrics() {
            match position(&self.names[first_name..], name) {
                None => self.push_entry(name, value),
                Some(index) => {
                    let at = first_value + 8 * index;
                    self.values[at..at + 8].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }

    #[inline]
    fn push_entry(&mut self, name: &str, value: f64) {
        put_string(&mut self.names, name);
        self.values.extend_from_slice(&value.to_le_bytes());
        self.entries += 1;
    }

    const fn bytes(&self) -> usize {
        self.names.len() + self.values.len()
    }

    const fn capacity_bytes(&self) -> usize {
        self.ends.capacity() + self.names.capacity() + self.values.capacity()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ends);
        out.extend_from_slice(&self.names);
        out.extend_from_slice(&self.values);
    }

    fn clear(&mut self) {
        self.entries = 0;
        self.ends.clear();
        self.names.clear();
        self.values.clear();
    }
}

/// Which of the length-prefixed `names` is `name`.
fn position(mut names: &[u8], name: &str) -> Option<usize> {
    for index in 0.. {
        let (len, prefix) = varint_bytes(names)?;
        let (head, rest) = names[prefix..].split_at_checked(len)?;
        if head == name.as_bytes() {
            return Some(index);
        }
        names = rest;
    }
    None
}

#[cfg(test)]
mod tests;
