//! A block that was encoded, read again: which records its rows came from, and the same block with fewer rows.
//!
//! Only for when something went wrong: a block that is stored at the first attempt is never looked into.

use bytes::Bytes;

use super::COLUMNS;
#[cfg(test)]
use super::Rows;
use super::put::{put_string, put_varint, varint_bytes};

/// Bytes of one value in each column; `None` for the map. A nullable value is preceded by as many marks as there are
/// rows.
const WIDTHS: [Option<usize>; COLUMNS.len()] =
    [Some(16), Some(8), Some(8), Some(4), Some(4), Some(4), Some(1), None, Some(8), Some(2), Some(8)];
const PARTITION: usize = 9;
const OFFSET: usize = 10;

/// A block as [`Rows::encode`](super::Rows::encode) wrote it.
#[derive(Clone, Debug)]
pub struct Block {
    body: Bytes,
    rows: usize,
    /// Where the values of each column begin.
    starts: [usize; COLUMNS.len()],
}

impl Block {
    /// Reads a block that [`Rows::encode`](super::Rows::encode) wrote; `None` for anything else.
    pub fn parse(body: Bytes) -> Option<Self> {
        let (columns, mut at) = varint_bytes(&body)?;
        let (rows, len) = varint_bytes(body.get(at..)?)?;
        at += len;
        if columns != COLUMNS.len() {
            return None;
        }
        let mut starts = [0; COLUMNS.len()];
        for (index, (name, kind)) in COLUMNS.iter().enumerate() {
            at = expect(&body, at, name)?;
            at = expect(&body, at, kind)?;
            starts[index] = at;
            at = match WIDTHS[index] {
                Some(width) => at.checked_add(rows.checked_mul(width + usize::from(is_nullable(index)))?)?,
                None => map_end(&body, at, rows)?,
            };
        }
        (at == body.len()).then_some(Self { body, rows, starts })
    }

    /// How many rows it has.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The block as it is sent.
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// The Kafka partition of a row.
    pub fn partition(&self, row: usize) -> u16 {
        u16::from_le_bytes(self.value(PARTITION, row))
    }

    /// The Kafka offset of a row.
    pub fn offset(&self, row: usize) -> u64 {
        u64::from_le_bytes(self.value(OFFSET, row))
    }

    fn value<const N: usize>(&self, column: usize, row: usize) -> [u8; N] {
        let at = self.starts[column] + row * N;
        let mut value = [0; N];
        value.copy_from_slice(&self.body[at..at + N]);
        value
    }

    /// The same block with only those rows for which `keep`, called with partition and offset, says so.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(u16, u64) -> bool) -> Self {
        let kept: Vec<usize> =
            (0..self.rows).filter(|row| keep(self.partition(*row), self.offset(*row))).collect();
        if kept.len() == self.rows { self.clone() } else { self.select(&kept) }
    }

    /// The rows before `middle`, and the others.
    #[must_use]
    pub fn split_at(&self, middle: usize) -> (Self, Self) {
        let middle = middle.min(self.rows);
        let (front, back): (Vec<usize>, Vec<usize>) = ((0..middle).collect(), (middle..self.rows).collect());
        (self.select(&front), self.select(&back))
    }

    fn select(&self, kept: &[usize]) -> Self {
        let mut out = Vec::new();
        let mut starts = [0; COLUMNS.len()];
        put_varint(&mut out, COLUMNS.len() as u64);
        put_varint(&mut out, kept.len() as u64);
        for (index, (name, kind)) in COLUMNS.iter().enumerate() {
            put_string(&mut out, name);
            put_string(&mut out, kind);
            starts[index] = out.len();
            let mut values = self.starts[index];
            if is_nullable(index) {
                out.extend(kept.iter().map(|row| self.body[values + row]));
                values += self.rows;
            }
            match WIDTHS[index] {
                Some(width) => {
                    for row in kept {
                        out.extend_from_slice(&self.body[values + row * width..values + (row + 1) * width]);
                    }
                }
                None => self.select_map(values, kept, &mut out),
            }
        }
        Self { body: out.into(), rows: kept.len(), starts }
    }

    fn select_map(&self, at: usize, kept: &[usize], out: &mut Vec<u8>) {
        let end = |row: usize| read_u64(&self.body, at + 8 * row);
        let bounds = |row: usize| (if row == 0 { 0 } else { end(row - 1) }, end(row));
        let mut total = 0u64;
        for (first, last) in kept.iter().map(|row| bounds(*row)) {
            total += (last - first) as u64;
            out.extend_from_slice(&total.to_le_bytes());
        }
        let entries = if self.rows == 0 { 0 } else { end(self.rows - 1) };
        let names = self.names(at + 8 * self.rows, entries);
        for (first, last) in kept.iter().map(|row| bounds(*row)) {
            out.extend_from_slice(&self.body[names[first]..names[last]]);
        }
        let values = names[entries];
        for (first, last) in kept.iter().map(|row| bounds(*row)) {
            out.extend_from_slice(&self.body[values + 8 * first..values + 8 * last]);
        }
    }

    /// Where each of the names begins, and where the last one ends.
    fn names(&self, mut at: usize, entries: usize) -> Vec<usize> {
        let mut starts = Vec::with_capacity(entries + 1);
        starts.push(at);
        for _ in 0..entries {
            // Every name was walked over when the block was parsed.
            let (len, prefix) = varint_bytes(&self.body[at..]).unwrap_or_default();
            at += prefix + len;
            starts.push(at);
        }
        starts
    }
}

#[cfg(test)]
impl Rows {
    /// The rows as a block that can be looked into.
    pub fn to_block(&self) -> Option<Block> {
        let mut body = Vec::new();
        self.encode(&mut body);
        Block::parse(body.into())
    }
}

const fn is_nullable(column: usize) -> bool {
    matches!(column, 3..=6)
}

fn expect(body: &[u8], at: usize, text: &str) -> Option<usize> {
    let (len, prefix) = varint_bytes(body.get(at..)?)?;
    let start = at + prefix;
    let found = body.get(start..start.checked_add(len)?)?;
    (found == text.as_bytes()).then_some(start + len)
}

fn read_u64(body: &[u8], at: usize) -> usize {
    let mut value = [0; 8];
    value.copy_from_slice(&body[at..at + 8]);
    usize::try_from(u64::from_le_bytes(value)).unwrap_or(usize::MAX)
}

/// Where a map column of `rows` rows that begins at `at` ends.
fn map_end(body: &[u8], at: usize, rows: usize) -> Option<usize> {
    let names = at.checked_add(rows.checked_mul(8)?)?;
    body.get(at..names)?;
    let mut before = 0;
    for row in 0..rows {
        let end = read_u64(body, at + 8 * row);
        if end < before {
            return None;
        }
        before = end;
    }
    let mut at = names;
    for _ in 0..before {
        let (len, prefix) = varint_bytes(body.get(at..)?)?;
        at = at.checked_add(prefix)?.checked_add(len)?;
    }
    let end = at.checked_add(before.checked_mul(8)?)?;
    body.get(at..end)?;
    Some(end)
}

#[cfg(test)]
mod tests {
    use penstock_proto::v1::SensorReading;
    use penstock_proto::{DeviceId, ReadingView};
    use proptest::prelude::*;
    use prost::Message;

    use super::super::Row;
    use super::*;

    fn rows(readings: &[(u16, u64, SensorReading)]) -> Rows {
        let mut rows = Rows::default();
        for (kafka_partition, kafka_offset, reading) in readings {
            let bytes = reading.encode_to_vec();
            let view = ReadingView::decode(&bytes).unwrap();
            let device = DeviceId::from_bytes([kafka_partition.to_le_bytes()[0]; 16]);
            rows.push(&Row {
                device,
                reading: &view,
                received_at_ms: 9,
                kafka_partition: *kafka_partition,
                kafka_offset: *kafka_offset,
            });
        }
        rows
    }

    fn readings() -> impl Strategy<Value = Vec<(u16, u64, SensorReading)>> {
        let reading = (
            0u16..4,
            0u64..1000,
            proptest::option::of(-40f32..60.0),
            proptest::option::of(0i32..=100),
            proptest::collection::btree_map("[a-z]{1,9}", -1e9f64..1e9, 0..4),
        )
            .prop_map(|(partition, offset, temperature, battery_level, metrics)| {
                let reading = SensorReading {
                    timestamp: 1_790_000_000_000,
                    temperature,
                    battery_level,
                    metrics,
                    ..Default::default()
                };
                (partition, offset, reading)
            });
        proptest::collection::vec(reading, 0..40)
    }

    proptest! {
        #[test]
        fn a_filtered_block_is_the_block_of_the_kept_rows(readings in readings(), modulus in 1u64..5) {
            let block = rows(&readings).to_block().unwrap();
            prop_assert_eq!(block.rows(), readings.len());
            for (row, (partition, offset, _)) in readings.iter().enumerate() {
                prop_assert_eq!((block.partition(row), block.offset(row)), (*partition, *offset));
            }
            let keep = |partition: u16, offset: u64| (u64::from(partition) + offset).is_multiple_of(modulus);
            let kept: Vec<_> =
                readings.iter().filter(|(partition, offset, _)| keep(*partition, *offset)).cloned().collect();
            let filtered = block.filter(keep);
            prop_assert_eq!(filtered.rows(), kept.len());
            prop_assert_eq!(Block::parse(filtered.body()).map(|block| block.starts), Some(filtered.starts));
            // The order of a reading's metrics is as it was encoded, so bytes are compared row by row.
            let middle = readings.len() / 2;
            let (front, back) = block.split_at(middle);
            prop_assert_eq!((front.rows(), back.rows()), (middle, readings.len() - middle));
            let offsets: Vec<_> = (0..filtered.rows()).map(|row| filtered.offset(row)).collect();
            prop_assert_eq!(offsets, kept.iter().map(|(_, offset, _)| *offset).collect::<Vec<_>>());
        }

        #[test]
        fn rows_without_metrics_are_the_same_bytes(count in 0usize..30, keep_every in 1u64..4) {
            let all: Vec<_> = (0..count as u64)
                .map(|offset| {
                    let timestamp = 1_790_000_000_000;
                    (1, offset, SensorReading { timestamp, humidity: Some(40.0), sequence: offset, ..Default::default() })
                })
                .collect();
            let kept: Vec<_> = all.iter().filter(|(_, offset, _)| offset % keep_every == 0).cloned().collect();
            let filtered = rows(&all).to_block().unwrap().filter(|_, offset| offset % keep_every == 0);
            let expected = rows(&kept).to_block().unwrap();
            prop_assert_eq!(filtered.body(), expected.body());
        }

        #[test]
        fn what_was_cut_short_is_no_block(readings in readings(), cut in 1usize..50) {
            let body = rows(&readings).to_block().unwrap().body();
            prop_assert!(Block::parse(body.slice(..body.len() - cut.min(body.len()))).is_none());
        }
    }
}
