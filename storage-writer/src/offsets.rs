//! Which offsets may be committed: only those below which every record is stored. Pure.
//!
//! Batches are stored several at a time and end in any order; they are kept in the order they were cut, and offsets
//! follow only from an unbroken run of stored batches at the front. A partition that left and came back is another
//! assignment of it: what an earlier assignment read moves no offset of a later one.

use std::collections::{BTreeMap, VecDeque};

/// Tells assignments of the same partition apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

/// What a batch holds of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// The partition.
    pub partition: i32,
    /// The assignment under which it was read.
    pub epoch: Epoch,
    /// Offset of the first record.
    pub first: i64,
    /// Offset behind the last record.
    pub next: i64,
}

/// Names a batch under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(u64);

#[derive(Debug)]
struct Entry {
    id: BatchId,
    ranges: Vec<OffsetRange>,
    stored: bool,
}

#[derive(Debug)]
struct Owned {
    epoch: Epoch,
    /// Next offset to be read; a record below it has been read before.
    position: i64,
    /// First offset that was read; `None` until there is a record.
    first: Option<i64>,
    /// Next offset that may be committed; `None` until the first batch is stored.
    stored: Option<i64>,
    committed: Option<i64>,
}

/// The partitions of this writer, and the batches under way.
#[derive(Debug, Default)]
pub struct Offsets {
    owned: BTreeMap<i32, Owned>,
    queue: VecDeque<Entry>,
    next_epoch: u64,
    next_batch: u64,
}

impl Offsets {
    /// The partition now belongs to this writer.
    pub fn assign(&mut self, partition: i32) {
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        self.owned
            .insert(partition, Owned { epoch, position: 0, first: None, stored: None, committed: None });
    }

    /// The partition belongs to this writer no longer: nothing of it will be committed.
    pub fn revoke(&mut self, partition: i32) {
        self.owned.remove(&partition);
    }

    /// The partitions of this writer.
    pub fn partitions(&self) -> impl Iterator<Item = i32> + '_ {
        self.owned.keys().copied()
    }

    /// Takes note of a record. `None` if it must be skipped: its partition is not this writer's, or it was read before.
    #[inline]
    pub fn read(&mut self, partition: i32, offset: i64) -> Option<Epoch> {
        let owned = self.owned.get_mut(&partition)?;
        if offset < owned.position {
            return None;
        }
        owned.position = offset + 1;
        owned.first.get_or_insert(offset);
        Some(owned.epoch)
    }

    /// The partition will be read again from `offset`, if it is still under the assignment `epoch`.
    pub fn rewind(&mut self, range: &OffsetRange) -> bool {
        match self.owned.get_mut(&range.partition).filter(|owned| owned.epoch == range.epoch) {
            Some(owned) => {
                owned.position = range.first;
                true
            }
            None => false,
        }
    }

    /// A batch with these ranges begins to be stored, after all that began before.
    pub fn begin(&mut self, ranges: Vec<OffsetRange>) -> BatchId {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        self.queue.push_back(Entry { id, ranges, stored: false });
        id
    }

    /// The batch is stored.
    pub fn stored(&mut self, id: BatchId) {
        if let Some(entry) = self.queue.iter_mut().find(|entry| entry.id == id) {
            entry.stored = true;
        }
        while self.queue.front().is_some_and(|entry| entry.stored) {
            let Some(entry) = self.queue.pop_front() else { break };
            for range in entry.ranges {
                if let Some(owned) =
                    self.owned.get_mut(&range.partition).filter(|owned| owned.epoch == range.epoch)
                {
                    owned.stored = Some(owned.stored.map_or(range.next, |stored| stored.max(range.next)));
                }
            }
        }
    }

    /// Batches under way.
    pub fn in_flight(&self) -> usize {
        self.queue.len()
    }

    /// Whether a batch under way holds records of one of the `partitions`.
    pub fn in_flight_of(&self, partitions: &[i32]) -> bool {
        self.queue.iter().flat_map(|entry| &entry.ranges).any(|range| partitions.contains(&range.partition))
    }

    /// Next offsets by partition that are stored and not committed yet.
    pub fn committable(&self) -> Vec<(i32, i64)> {
        let new = |(partition, owned): (&i32, &Owned)| {
            owned.stored.filter(|_| owned.stored != owned.committed).map(|next| (*partition, next))
        };
        self.owned.iter().filter_map(new).collect()
    }

    /// These next offsets were handed to Kafka.
    pub fn committed(&mut self, offsets: &[(i32, i64)]) {
        for (partition, next) in offsets {
            if let Some(owned) = self.owned.get_mut(partition) {
                owned.committed = Some(*next);
            }
        }
    }

    /// The commit failed: everything stored is to be committed again.
    pub fn commit_failed(&mut self) {
        for owned in self.owned.values_mut() {
            owned.committed = None;
        }
    }

    /// Next offset to be stored, by partition; without those of which nothing was read yet.
    pub fn stored_below(&self) -> impl Iterator<Item = (i32, i64)> + '_ {
        self.owned
            .iter()
            .filter_map(|(partition, owned)| owned.stored.or(owned.first).map(|next| (*partition, next)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(offsets: &mut Offsets, partition: i32, first: i64, next: i64) -> OffsetRange {
        let epoch = offsets.read(partition, next - 1).unwrap();
        OffsetRange { partition, epoch, first, next }
    }

    #[test]
    fn nothing_is_committed_past_a_batch_that_is_not_stored() {
        let mut offsets = Offsets::default();
        offsets.assign(0);
        offsets.assign(1);
        let ranges = vec![range(&mut offsets, 0, 0, 10)];
        let first = offsets.begin(ranges);
        let ranges = vec![range(&mut offsets, 0, 10, 20), range(&mut offsets, 1, 0, 5)];
        let second = offsets.begin(ranges);
        offsets.stored(second);
        assert_eq!(offsets.committable(), []);
        assert_eq!(offsets.in_flight(), 2);
        offsets.stored(first);
        assert_eq!(offsets.committable(), [(0, 20), (1, 5)]);
        assert_eq!(offsets.in_flight(), 0);
        offsets.committed(&[(0, 20), (1, 5)]);
        assert_eq!(offsets.committable(), []);
        offsets.commit_failed();
        assert_eq!(offsets.committable(), [(0, 20), (1, 5)]);
    }

    #[test]
    fn what_an_earlier_assignment_read_moves_no_offset_of_a_later_one() {
        let mut offsets = Offsets::default();
        offsets.assign(3);
        let ranges = vec![range(&mut offsets, 3, 100, 200)];
        let batch = offsets.begin(ranges);
        offsets.revoke(3);
        assert!(offsets.in_flight_of(&[3]));
        offsets.assign(3);
        offsets.stored(batch);
        assert_eq!(offsets.committable(), []);
        assert!(!offsets.in_flight_of(&[3]));
    }

    #[test]
    fn records_that_were_read_before_or_belong_to_others_are_skipped() {
        let mut offsets = Offsets::default();
        offsets.assign(0);
        assert!(offsets.read(0, 5).is_some());
        assert!(offsets.read(0, 5).is_none());
        assert!(offsets.read(0, 4).is_none());
        assert!(offsets.read(1, 0).is_none());
        let again = range(&mut offsets, 0, 5, 7);
        assert!(offsets.rewind(&again));
        assert!(offsets.read(0, 5).is_some());
        offsets.revoke(0);
        offsets.assign(0);
        assert!(!offsets.rewind(&again));
    }

    proptest! {
        #[test]
        fn in_whatever_order_batches_end_the_commit_is_the_unbroken_front(
            order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut offsets = Offsets::default();
            offsets.assign(0);
            let ids: Vec<_> = (0..12)
                .map(|i| {
                    let ranges = vec![range(&mut offsets, 0, i * 10, i * 10 + 10)];
                    offsets.begin(ranges)
                })
                .collect();
            let mut done = [false; 12];
            for index in order {
                offsets.stored(ids[index]);
                done[index] = true;
                let front = done.iter().take_while(|done| **done).count();
                let expected: Vec<_> = (front > 0).then(|| (0, i64::try_from(front).unwrap() * 10)).into_iter().collect();
                prop_assert_eq!(offsets.committable(), expected);
            }
        }
    }
}
