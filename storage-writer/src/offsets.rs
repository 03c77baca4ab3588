//! Which offsets may be committed: only those below which every record is stored. Pure.
//!
//! Batches are stored several at a time and end in any order; they are kept in the order they were cut, and offsets
//! follow only from an unbroken run of stored batches at the front. A partition that left and came back is another
//! assignment of it: what an earlier assignment read moves no offset of a later one.

use std::collections::{BTreeMap, VecDeque};

use crate::stored::OffsetSet;

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
    /// Records of it wait to become dead letters: nothing is committed past it but together with them.
    letters: bool,
}

/// Offsets that were done with before an assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Already {
    /// Those that are rows.
    pub rows: OffsetSet,
    /// Those that are dead letters.
    pub letters: OffsetSet,
}

#[derive(Debug)]
struct Owned {
    epoch: Epoch,
    /// Whether records may be read: what is stored of the partition is known.
    open: bool,
    /// Offsets that were done with before this assignment.
    already: Already,
    /// Next offset to be read; a record below it has been read before.
    position: i64,
    /// First offset that was read; `None` until there is a record.
    first: Option<i64>,
    /// Everything below it is stored; `None` until that is known of anything.
    stored: Option<i64>,
    /// Next offset that was handed to Kafka.
    committed: Option<i64>,
}

/// What a record is to the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is to be stored.
    New(Epoch),
    /// It was stored before this assignment began.
    Stored(Epoch),
    /// It became a dead letter before this assignment began.
    Lettered(Epoch),
    /// It must be passed over: its partition is not this writer's, or it was read before.
    Foreign,
}

/// How far an assignment of a partition has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The partition.
    pub partition: i32,
    /// The assignment.
    pub epoch: Epoch,
    /// Next offset.
    pub next: i64,
}

/// Stored batches at the front of the queue whose dead letters can be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ripe {
    /// The batches, in order.
    pub ids: Vec<BatchId>,
    /// What in them was read under assignments that are in force: its letters are this writer's to send.
    pub ranges: Vec<(BatchId, OffsetRange)>,
    /// To be committed together with the letters.
    pub next: Vec<Reached>,
}

impl Ripe {
    /// Whether a record of the batch was read under an assignment that was in force.
    pub fn holds(&self, batch: BatchId, partition: i32) -> bool {
        self.ranges.iter().any(|(id, range)| *id == batch && range.partition == partition)
    }
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
    /// The partition now belongs to this writer. Its records are passed over until it is [opened](Self::open).
    pub fn assign(&mut self, partition: i32) -> Epoch {
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        let owned = Owned {
            epoch,
            open: false,
            already: Already::default(),
            position: 0,
            first: None,
            stored: None,
            committed: None,
        };
        self.owned.insert(partition, owned);
        epoch
    }

    /// Records of the partition are read from now on. Everything below `floor` is stored, and the offsets `already`.
    /// `false` if the assignment is over.
    pub fn open(&mut self, partition: i32, epoch: Epoch, floor: Option<i64>, already: Already) -> bool {
        let Some(owned) = self.owned.get_mut(&partition).filter(|owned| owned.epoch == epoch) else {
            return false;
        };
        owned.open = true;
        owned.already = already;
        owned.position = floor.unwrap_or(0);
        owned.stored = floor;
        owned.committed = floor;
        true
    }

    /// Whether this assignment of the partition is in force.
    pub fn is_current(&self, partition: i32, epoch: Epoch) -> bool {
        self.owned.get(&partition).is_some_and(|owned| owned.epoch == epoch)
    }

    /// The partition belongs to this writer no longer: nothing of it will be committed.
    pub fn revoke(&mut self, partition: i32) {
        self.owned.remove(&partition);
    }

    /// The partitions of this writer.
    pub fn partitions(&self) -> impl Iterator<Item = i32> + '_ {
        self.owned.keys().copied()
    }

    /// The partitions of which records are read.
    pub fn open_partitions(&self) -> impl Iterator<Item = i32> + '_ {
        self.owned.iter().filter(|(_, owned)| owned.open).map(|(partition, _)| *partition)
    }

    /// Takes note of a record.
    #[inline]
    pub fn read(&mut self, partition: i32, offset: i64) -> Found {
        let Some(owned) = self.owned.get_mut(&partition) else { return Found::Foreign };
        if !owned.open || offset < owned.position {
            return Found::Foreign;
        }
        owned.position = offset + 1;
        owned.first.get_or_insert(offset);
        if owned.already.rows.contains(offset.cast_unsigned()) {
            Found::Stored(owned.epoch)
        } else if owned.already.letters.contains(offset.cast_unsigned()) {
            Found::Lettered(owned.epoch)
        } else {
            Found::New(owned.epoch)
        }
    }

    /// A batch with these ranges begins to be stored, after all that began before.
    pub fn begin(&mut self, ranges: Vec<OffsetRange>) -> BatchId {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        self.queue.push_back(Entry { id, ranges, stored: false, letters: false });
        id
    }

    /// The rows of the batch are stored. With `letters`, records of it wait to become dead letters.
    pub fn stored(&mut self, id: BatchId, letters: bool) {
        if let Some(entry) = self.queue.iter_mut().find(|entry| entry.id == id) {
            entry.stored = true;
            entry.letters = letters;
        }
        self.advance();
    }

    fn advance(&mut self) {
        while self.queue.front().is_some_and(|entry| entry.stored && !entry.letters) {
            let Some(entry) = self.queue.pop_front() else { break };
            for range in entry.ranges {
                if let Some(owned) =
                    self.owned.get_mut(&range.partition).filter(|owned| owned.epoch == range.epoch)
                {
                    let stored = owned.stored.map_or(range.next, |stored| stored.max(range.next));
                    owned.stored = Some(stored);
                    // Not before: records may be read again from the last one that is not stored.
                    owned.already.rows.forget_below(stored.cast_unsigned());
                    owned.already.letters.forget_below(stored.cast_unsigned());
                }
            }
        }
    }

    /// The stored batches at the front, if dead letters of theirs wait.
    pub fn ripe(&self) -> Option<Ripe> {
        let front: Vec<&Entry> = self.queue.iter().take_while(|entry| entry.stored).collect();
        if front.iter().all(|entry| !entry.letters) {
            return None;
        }
        let ranges: Vec<(BatchId, OffsetRange)> = front
            .iter()
            .flat_map(|entry| entry.ranges.iter().map(|range| (entry.id, *range)))
            .filter(|(_, range)| self.is_current(range.partition, range.epoch))
            .collect();
        let mut next: BTreeMap<i32, i64> = self.committable().into_iter().collect();
        for (_, range) in &ranges {
            let next = next.entry(range.partition).or_insert(range.next);
            *next = range.next.max(*next);
        }
        let reached = |(partition, next): (i32, i64)| {
            self.owned.get(&partition).map(|owned| Reached { partition, epoch: owned.epoch, next })
        };
        let ids = front.iter().map(|entry| entry.id).collect();
        Some(Ripe { ids, ranges, next: next.into_iter().filter_map(reached).collect() })
    }

    /// What shows whether the transaction of these batches was committed: offsets that only it can have committed, as
    /// far as their assignments are still in force.
    pub fn telling(&self, ripe: &Ripe) -> Vec<(i32, i64)> {
        let tells = |reached: &&Reached| {
            self.is_current(reached.partition, reached.epoch)
                && ripe.ranges.iter().any(|(_, range)| range.partition == reached.partition)
        };
        ripe.next.iter().filter(tells).map(|reached| (reached.partition, reached.next)).collect()
    }

    /// The dead letters of these batches are in their topic, and the offsets are committed.
    pub fn letters_sent(&mut self, ripe: &Ripe) {
        self.letters_dropped(ripe);
        let ours = |reached: &&Reached| self.is_current(reached.partition, reached.epoch);
        let next: Vec<(i32, i64)> =
            ripe.next.iter().filter(ours).map(|reached| (reached.partition, reached.next)).collect();
        self.committed(&next);
    }

    /// The dead letters of these batches are not this writer's to send any more.
    pub fn letters_dropped(&mut self, ripe: &Ripe) {
        for entry in self.queue.iter_mut().filter(|entry| ripe.ids.contains(&entry.id)) {
            entry.letters = false;
        }
        self.advance();
    }

    /// Batches under way.
    pub fn in_flight(&self) -> usize {
        self.queue.len()
    }

    /// Whether a batch under way holds records of one of the `partitions`.
    pub fn in_flight_of(&self, partitions: &[i32]) -> bool {
        self.queue.iter().flat_map(|entry| &entry.ranges).any(|range| {
            partitions.contains(&range.partition) && self.is_current(range.partition, range.epoch)
        })
    }

    /// Next offsets by partition that are stored and not committed yet.
    pub fn committable(&self) -> Vec<(i32, i64)> {
        let new = |(partition, owned): (&i32, &Owned)| {
            owned.stored.filter(|_| owned.stored != owned.committed).map(|next| (*partition, next))
        };
        self.owned.iter().filter(|(_, owned)| owned.open).filter_map(new).collect()
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

    /// Next offset to be stored, by partition; without those of which nothing is known yet.
    pub fn stored_below(&self) -> impl Iterator<Item = (i32, i64)> + '_ {
        self.owned
            .iter()
            .filter(|(_, owned)| owned.open)
            .filter_map(|(partition, owned)| owned.stored.or(owned.first).map(|next| (*partition, next)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(offsets: &mut Offsets, partition: i32, first: i64, next: i64) -> OffsetRange {
        let Found::New(epoch) = offsets.read(partition, next - 1) else { panic!("it is new") };
        OffsetRange { partition, epoch, first, next }
    }

    fn assign(offsets: &mut Offsets, partition: i32) -> Epoch {
        let epoch = offsets.assign(partition);
        assert!(offsets.open(partition, epoch, None, Already::default()));
        epoch
    }

    #[test]
    fn nothing_is_committed_past_a_batch_that_is_not_stored() {
        let mut offsets = Offsets::default();
        assign(&mut offsets, 0);
        assign(&mut offsets, 1);
        let ranges = vec![range(&mut offsets, 0, 0, 10)];
        let first = offsets.begin(ranges);
        let ranges = vec![range(&mut offsets, 0, 10, 20), range(&mut offsets, 1, 0, 5)];
        let second = offsets.begin(ranges);
        offsets.stored(second, false);
        assert_eq!(offsets.committable(), []);
        assert_eq!(offsets.in_flight(), 2);
        offsets.stored(first, false);
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
        assign(&mut offsets, 3);
        let ranges = vec![range(&mut offsets, 3, 100, 200)];
        let batch = offsets.begin(ranges);
        offsets.revoke(3);
        assert!(!offsets.in_flight_of(&[3]), "nothing of it is waited for");
        assign(&mut offsets, 3);
        offsets.stored(batch, false);
        assert_eq!(offsets.committable(), []);
        assert!(!offsets.in_flight_of(&[3]));
    }

    #[test]
    fn records_that_were_read_before_or_belong_to_others_are_skipped() {
        let mut offsets = Offsets::default();
        assign(&mut offsets, 0);
        assert!(matches!(offsets.read(0, 5), Found::New(_)));
        assert_eq!(offsets.read(0, 5), Found::Foreign);
        assert_eq!(offsets.read(0, 4), Found::Foreign);
        assert_eq!(offsets.read(1, 0), Found::Foreign);
    }

    #[test]
    fn what_was_stored_before_is_told_from_what_is_new_and_nothing_is_read_before_that_is_known() {
        let mut offsets = Offsets::default();
        let epoch = offsets.assign(0);
        assert_eq!(offsets.read(0, 100), Found::Foreign);
        let mut already = Already::default();
        already.rows.insert(101, 103);
        already.letters.insert(104, 105);
        assert!(offsets.open(0, epoch, Some(100), already));
        assert_eq!(offsets.stored_below().collect::<Vec<_>>(), [(0, 100)]);
        assert_eq!(offsets.committable(), [], "the floor is what was committed");
        let found: Vec<_> = (99..105).map(|offset| offsets.read(0, offset)).collect();
        let (new, stored) = (Found::New(epoch), Found::Stored(epoch));
        assert_eq!(found, [Found::Foreign, new, stored, stored, new, Found::Lettered(epoch)]);
        let later = offsets.assign(0);
        assert!(!offsets.open(0, epoch, None, Already::default()), "that assignment is over");
        assert!(offsets.is_current(0, later));
    }

    #[test]
    fn offsets_pass_a_batch_with_dead_letters_only_together_with_them() {
        let mut offsets = Offsets::default();
        assign(&mut offsets, 0);
        assign(&mut offsets, 1);
        let ids: Vec<_> = [vec![(0, 0, 5)], vec![(0, 5, 9), (1, 0, 3)], vec![(1, 3, 7)], vec![(0, 9, 12)]]
            .into_iter()
            .map(|ranges| {
                let ranges =
                    ranges.into_iter().map(|(p, first, next)| range(&mut offsets, p, first, next)).collect();
                offsets.begin(ranges)
            })
            .collect();
        offsets.stored(ids[2], false);
        offsets.stored(ids[1], true);
        assert_eq!(offsets.ripe(), None, "the batch before them is not stored");
        offsets.stored(ids[0], false);
        assert_eq!(offsets.committable(), [(0, 5)]);
        let ripe = offsets.ripe().unwrap();
        assert_eq!((&ripe.ids[..], next(&ripe)), (&ids[1..3], vec![(0, 9), (1, 7)]));
        assert!(ripe.holds(ids[1], 0) && ripe.holds(ids[1], 1) && ripe.holds(ids[2], 1));
        assert_eq!(offsets.telling(&ripe), [(0, 9), (1, 7)]);
        offsets.revoke(1);
        assert_eq!(offsets.telling(&ripe), [(0, 9)], "the other one's next owner commits what it likes");
        let ripe = offsets.ripe().unwrap();
        assert_eq!(next(&ripe), [(0, 9)]);
        assert!(ripe.holds(ids[1], 0) && !ripe.holds(ids[1], 1) && !ripe.holds(ids[2], 1));
        offsets.letters_sent(&ripe);
        assert_eq!((offsets.ripe(), offsets.committable()), (None, vec![]));
        offsets.stored(ids[3], false);
        assert_eq!(offsets.committable(), [(0, 12)]);
    }

    fn next(ripe: &Ripe) -> Vec<(i32, i64)> {
        ripe.next.iter().map(|reached| (reached.partition, reached.next)).collect()
    }

    #[test]
    fn letters_that_an_earlier_assignment_read_are_not_sent_beside_those_of_a_later_one() {
        let mut offsets = Offsets::default();
        assign(&mut offsets, 0);
        let ranges = vec![range(&mut offsets, 0, 0, 5)];
        let earlier = offsets.begin(ranges);
        // Given up and taken over anew: the same records are read again.
        assign(&mut offsets, 0);
        let ranges = vec![range(&mut offsets, 0, 0, 7)];
        let later = offsets.begin(ranges);
        offsets.stored(earlier, true);
        offsets.stored(later, true);
        let ripe = offsets.ripe().unwrap();
        assert_eq!(ripe.ids, [earlier, later]);
        assert!(!ripe.holds(earlier, 0) && ripe.holds(later, 0));
        // A transaction that ends after its partition was taken over anew says nothing about the new assignment.
        let epoch = offsets.assign(0);
        assert!(offsets.telling(&ripe).is_empty());
        assert!(offsets.open(0, epoch, Some(3), Already::default()));
        offsets.letters_sent(&ripe);
        assert_eq!((offsets.committable(), offsets.in_flight()), (vec![], 0));
    }

    #[test]
    fn offsets_whose_commit_failed_do_not_tell_how_a_transaction_ended() {
        let mut offsets = Offsets::default();
        assign(&mut offsets, 0);
        assign(&mut offsets, 1);
        let ranges = vec![range(&mut offsets, 0, 0, 5)];
        let first = offsets.begin(ranges);
        offsets.stored(first, false);
        offsets.committed(&[(0, 5)]);
        offsets.commit_failed();
        let ranges = vec![range(&mut offsets, 1, 0, 5)];
        let second = offsets.begin(ranges);
        offsets.stored(second, true);
        let ripe = offsets.ripe().unwrap();
        assert_eq!(next(&ripe), [(0, 5), (1, 5)]);
        assert_eq!(offsets.telling(&ripe), [(1, 5)], "the other may have been committed all the same");
    }

    proptest! {
        #[test]
        fn in_whatever_order_batches_end_the_commit_is_the_unbroken_front(
            order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut offsets = Offsets::default();
            assign(&mut offsets, 0);
            let ids: Vec<_> = (0..12)
                .map(|i| {
                    let ranges = vec![range(&mut offsets, 0, i * 10, i * 10 + 10)];
                    offsets.begin(ranges)
                })
                .collect();
            let mut done = [false; 12];
            for index in order {
                offsets.stored(ids[index], false);
                done[index] = true;
                let front = done.iter().take_while(|done| **done).count();
                let expected: Vec<_> = (front > 0).then(|| (0, i64::try_from(front).unwrap() * 10)).into_iter().collect();
                prop_assert_eq!(offsets.committable(), expected);
            }
        }
    }
}
