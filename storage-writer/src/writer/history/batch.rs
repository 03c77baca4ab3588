//! Alerts on their way into one insert, and what has to be known of them afterwards. Pure: the caller says what time it
//! is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_kafka::TopicPartition;
use penstock_proto::{Invalid, Reason};

use super::alert::{Record, encode};
use crate::batch::Refused;

/// Rows at which a batch is cut.
const ROWS_MAX: usize = 1_000;
/// Bytes at which a batch is cut: rows, and their records.
const BYTES_MAX: usize = 4 << 20;
/// Age of the oldest record at which a batch is cut.
pub(super) const AGE_MAX: Duration = Duration::from_millis(500);
/// What an entry weighs beside its bytes.
const ENTRY_BYTES: usize = 256;

/// Tells assignments of a partition apart: what came of an earlier one is neither committed nor made a dead letter.
pub(super) type Epoch = u64;

/// A record as it came, in case it has to become a dead letter.
#[derive(Clone, Debug)]
pub(super) struct Original {
    pub(super) partition: TopicPartition,
    pub(super) epoch: Epoch,
    pub(super) offset: i64,
    pub(super) key: Option<Bytes>,
    pub(super) payload: Bytes,
}

/// A record that is no row.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) partition: TopicPartition,
    pub(super) epoch: Epoch,
    pub(super) refused: Refused,
}

impl Original {
    pub(super) fn refuse(self, invalid: Invalid) -> Letter {
        let Self { partition, epoch, offset, key, payload } = self;
        let refused = Refused { key, payload, invalid, partition: partition.partition, offset };
        Letter { partition, epoch, refused }
    }
}

/// Rows, letters, and how far they go in their partitions.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// `RowBinary`, row after row.
    pub(super) body: Vec<u8>,
    /// Where each row ends in `body`.
    pub(super) ends: Vec<usize>,
    /// The record of each row.
    pub(super) originals: Vec<Original>,
    pub(super) letters: Vec<Letter>,
    /// Next offset behind the batch.
    pub(super) next: BTreeMap<TopicPartition, (Epoch, i64)>,
    original_bytes: usize,
    since: Option<Instant>,
}

impl Batch {
    /// Takes a record.
    pub(super) fn add(&mut self, original: Original, is_tombstone: bool, timestamp_ms: i64, now: Instant) {
        self.passed(&original.partition, original.epoch, original.offset, now);
        self.original_bytes +=
            ENTRY_BYTES + original.payload.len() + original.key.as_ref().map_or(0, Bytes::len);
        let numbers = (u16::try_from(original.partition.partition), u64::try_from(original.offset));
        let encoded = match numbers {
            (Ok(partition), Ok(offset)) => encode(
                &Record {
                    topic: &original.partition.topic,
                    partition,
                    offset,
                    timestamp_ms,
                    key: original.key.as_deref(),
                    payload: (!is_tombstone).then_some(&original.payload),
                },
                &mut self.body,
            ),
            // The topics' partitions were counted at start.
            _ => Err(Invalid::new(Reason::Undecodable, "its partition has no number that a column holds")),
        };
        match encoded {
            Ok(()) => {
                self.ends.push(self.body.len());
                self.originals.push(original);
            }
            Err(invalid) => self.letters.push(original.refuse(invalid)),
        }
    }

    /// Passes a record over: it is a dead letter already.
    pub(super) fn passed(&mut self, partition: &TopicPartition, epoch: Epoch, offset: i64, now: Instant) {
        self.since.get_or_insert(now);
        self.next.insert(partition.clone(), (epoch, offset + 1));
    }

    pub(super) fn bytes(&self) -> usize {
        self.body.len() + self.original_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.ends.len() + self.letters.len() >= ROWS_MAX || self.bytes() >= BYTES_MAX
    }

    /// How long it may still wait; `None` while it is empty.
    pub(super) fn age_left(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| AGE_MAX.saturating_sub(now.saturating_duration_since(since)))
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_full() || self.age_left(now).is_some_and(|left| left.is_zero())
    }

    /// Whether anything of these partitions is in it.
    pub(super) fn holds(&self, partitions: &[TopicPartition]) -> bool {
        partitions.iter().any(|partition| self.next.contains_key(partition))
    }
}

#[cfg(test)]
mod tests {
    use penstock_proto::alert_json::to_json;
    use penstock_proto::v1::DeviceAlert;

    use super::*;

    fn original(offset: i64, payload: &[u8]) -> Original {
        Original {
            partition: TopicPartition::new("t", 3),
            epoch: 1,
            offset,
            key: Some(Bytes::from_static(&[7; 16])),
            payload: Bytes::copy_from_slice(payload),
        }
    }

    fn alert(text_bytes: usize) -> Vec<u8> {
        let id = "07070707-0707-0707-0707-070707070707".to_owned();
        let text = "x".repeat(text_bytes);
        let alert = DeviceAlert {
            device_id: id.clone(),
            id,
            rule: "r".into(),
            state: 1,
            onset: 1,
            text,
            ..DeviceAlert::default()
        };
        to_json(&alert).into_bytes()
    }

    #[test]
    fn a_batch_is_due_when_it_is_old_or_full() {
        let now = Instant::now();
        let mut batch = Batch::default();
        assert!(batch.is_empty() && !batch.is_due(now) && batch.age_left(now).is_none());
        batch.add(original(4, &alert(0)), false, 1, now);
        assert!(!batch.is_due(now + AGE_MAX / 2) && batch.is_due(now + AGE_MAX));
        for offset in 5..1_003 {
            batch.add(original(offset, &alert(0)), false, 1, now);
        }
        assert!(!batch.is_full());
        batch.add(original(1_003, b"no alert"), false, 1, now);
        assert!(batch.is_due(now), "a flood of records that are no alerts is bounded, too");
        assert_eq!((batch.ends.len(), batch.letters.len()), (999, 1));
        assert_eq!(batch.next[&TopicPartition::new("t", 3)], (1, 1_004));
        assert_eq!(batch.ends.last(), Some(&batch.body.len()));
        let mut large = Batch::default();
        (0..4).for_each(|offset| large.add(original(offset, &alert(600_000)), false, 1, now));
        assert!(large.is_full(), "{}", large.bytes());
    }

    #[test]
    fn what_is_passed_over_is_committed_all_the_same() {
        let mut batch = Batch::default();
        let partition = TopicPartition::new("t", 3);
        batch.passed(&partition, 2, 9, Instant::now());
        assert_eq!((batch.next[&partition], batch.ends.len()), ((2, 10), 0));
        assert!(batch.holds(&[partition]) && !batch.holds(&[TopicPartition::new("u", 3)]));
    }
}
