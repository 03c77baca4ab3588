//! Rows of many partitions on their way into one insert: when they are enough, and which offsets they cover. Pure:
//! the caller says what time it is.

use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_proto::Invalid;

use crate::native::{Row, Rows};
use crate::offsets::{Epoch, OffsetRange};

/// What [`Refused`] weighs beside its key and payload.
const REFUSED_BYTES: usize = 256;

/// When a batch is large or old enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows at which a batch is cut while no insert is under way.
    pub rows_max: usize,
    /// Rows at which a batch is cut in any case. Between the two, a batch grows while another insert is under way:
    /// one insert of 100,000 rows costs ClickHouse half of what ten of 10,000 do.
    pub rows_grown_max: usize,
    /// Bytes at which a batch is cut in any case.
    pub bytes_max: usize,
    /// Age of the oldest record at which a batch is cut in any case.
    pub age_max: Duration,
}

impl Limits {
    /// The same with batches that are `factor` times larger and older, as far as [`rows_grown_max`](Self::rows_grown_max)
    /// and [`bytes_max`](Self::bytes_max) go.
    #[must_use]
    pub fn stretched(self, factor: f64) -> Self {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rows of a batch are far below 2^52, and neither is negative"
        )]
        let rows = (self.rows_max as f64 * factor.max(1.0)) as usize;
        let age_max = self.age_max.mul_f64(factor.max(1.0));
        Self { rows_max: rows.min(self.rows_grown_max).max(self.rows_max), age_max, ..self }
    }
}

/// A record that cannot become a row, kept until the storage-failures topic has it.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its key, as it came.
    pub key: Option<Bytes>,
    /// Its value, as it came.
    pub payload: Bytes,
    /// Why it cannot become a row.
    pub invalid: Invalid,
    /// The partition it came from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
}

/// A batch that was cut: one insert.
#[derive(Debug)]
pub struct Cut {
    /// The rows as one Native block; empty where there are none.
    pub body: Bytes,
    /// How many rows the block holds.
    pub rows: usize,
    /// Rows that were stored before, as a block: only the table of latest readings may still lack them. Empty where
    /// there are none.
    pub stored_before: Bytes,
    /// Records that go to the storage-failures topic instead.
    pub refused: Vec<Refused>,
    /// What it covers, at most one range a partition.
    pub ranges: Vec<OffsetRange>,
}

/// The batch that is being filled.
#[derive(Debug)]
pub struct Batch {
    limits: Limits,
    rows: Rows,
    stored_before: Rows,
    refused: Vec<Refused>,
    refused_bytes: usize,
    /// By partition number: partitions are few and dense.
    ranges: Vec<Option<OffsetRange>>,
    records: usize,
    oldest: Option<Instant>,
}

impl Batch {
    /// An empty batch.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            rows: Rows::default(),
            stored_before: Rows::default(),
            refused: Vec::new(),
            refused_bytes: 0,
            ranges: Vec::new(),
            records: 0,
            oldest: None,
        }
    }

    /// What counts from now on as large or old enough.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Adds a row that was read under the assignment `epoch`.
    #[inline]
    pub fn push(&mut self, row: &Row<'_>, epoch: Epoch, now: Instant) {
        self.rows.push(row);
        self.cover(i32::from(row.kafka_partition), row.kafka_offset.cast_signed(), epoch, now);
    }

    /// Adds a row that was stored under an earlier assignment.
    pub fn push_stored(&mut self, row: &Row<'_>, epoch: Epoch, now: Instant) {
        self.stored_before.push(row);
        self.cover(i32::from(row.kafka_partition), row.kafka_offset.cast_signed(), epoch, now);
    }

    /// Adds a record that cannot become a row.
    pub fn refuse(&mut self, refused: Refused, epoch: Epoch, now: Instant) {
        self.refused_bytes +=
            REFUSED_BYTES + refused.payload.len() + refused.key.as_ref().map_or(0, Bytes::len);
        self.cover(refused.partition, refused.offset, epoch, now);
        self.refused.push(refused);
    }

    #[inline]
    fn cover(&mut self, partition: i32, offset: i64, epoch: Epoch, now: Instant) {
        self.records += 1;
        self.oldest.get_or_insert(now);
        let Ok(index) = usize::try_from(partition) else { return };
        if index >= self.ranges.len() {
            self.ranges.resize(index + 1, None);
        }
        match &mut self.ranges[index] {
            Some(range) => range.next = offset + 1,
            empty => *empty = Some(OffsetRange { partition, epoch, first: offset, next: offset + 1 }),
        }
    }

    /// Records in it, refused ones included.
    pub const fn len(&self) -> usize {
        self.records
    }

    /// Whether it holds no record.
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes in it, refused records included.
    pub const fn bytes(&self) -> usize {
        self.rows.bytes() + self.stored_before.bytes() + self.refused_bytes
    }

    /// Bytes that its buffers hold on to.
    pub const fn capacity_bytes(&self) -> usize {
        self.rows.capacity_bytes() + self.stored_before.capacity_bytes() + self.refused_bytes
    }

    /// Whether nothing more may be added before it is cut.
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.records >= self.limits.rows_grown_max || self.bytes() >= self.limits.bytes_max
    }

    /// Whether it should be cut now, given how many inserts are under way.
    pub fn is_due(&self, now: Instant, inserts_in_flight: usize) -> bool {
        self.is_full()
            || (inserts_in_flight == 0 && self.records >= self.limits.rows_max)
            || self.age_left(now).is_some_and(|left| left.is_zero())
    }

    /// How long until its age asks for a cut; `None` if it is empty.
    pub fn age_left(&self, now: Instant) -> Option<Duration> {
        self.oldest.map(|oldest| (oldest + self.limits.age_max).saturating_duration_since(now))
    }

    /// What it covers, at most one range a partition.
    pub fn ranges(&self) -> impl Iterator<Item = &OffsetRange> {
        self.ranges.iter().flatten()
    }

    /// Takes everything out; the buffers stay.
    pub fn cut(&mut self) -> Cut {
        let cut = Cut {
            body: encoded(&self.rows),
            rows: self.rows.len(),
            stored_before: encoded(&self.stored_before),
            refused: std::mem::take(&mut self.refused),
            ranges: self.ranges().copied().collect(),
        };
        self.clear();
        cut
    }

    /// Drops everything in it; the buffers stay.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.stored_before.clear();
        self.refused.clear();
        self.refused_bytes = 0;
        self.ranges.fill(None);
        self.records = 0;
        self.oldest = None;
    }
}

fn encoded(rows: &Rows) -> Bytes {
    let mut body = Vec::new();
    if !rows.is_empty() {
        rows.encode(&mut body);
    }
    body.into()
}

#[cfg(test)]
mod tests;
