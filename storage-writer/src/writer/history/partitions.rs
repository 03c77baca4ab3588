//! The partitions of this member of the group: which may be read, up to where their alerts are stored, and what of that
//! is committed. Pure.

use std::collections::BTreeMap;

use penstock_kafka::TopicPartition;

use super::batch::Epoch;
use crate::stored::OffsetSet;

#[derive(Debug)]
struct Partition {
    epoch: Epoch,
    /// `None` until it is known from where to read.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Next offset to be read.
    next: i64,
    /// Next offset to be stored.
    stored: i64,
    committed: i64,
    /// Offsets that are dead letters already, although the committed offset does not say so.
    letters: OffsetSet,
}

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is new.
    New(Epoch),
    /// It is a dead letter already.
    Letter(Epoch),
    /// It was read before, or its partition is not to be read.
    Stale,
}

/// All partitions that are assigned.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    all: BTreeMap<TopicPartition, Partition>,
    epochs: Epoch,
}

impl Partitions {
    /// A partition is taken up, or given up and taken up anew: nothing of it is read before it is opened.
    pub(super) fn assign(&mut self, partition: &TopicPartition) -> Epoch {
        self.epochs += 1;
        self.all.insert(partition.clone(), Partition { epoch: self.epochs, open: None });
        self.epochs
    }

    pub(super) fn revoke(&mut self, partition: &TopicPartition) {
        self.all.remove(partition);
    }

    pub(super) fn is_current(&self, partition: &TopicPartition, epoch: Epoch) -> bool {
        self.all.get(partition).is_some_and(|found| found.epoch == epoch)
    }

    /// The partition is read from `next`.
    pub(super) fn open(&mut self, partition: &TopicPartition, next: i64, letters: OffsetSet) {
        if let Some(found) = self.all.get_mut(partition) {
            found.open = Some(Open { next, stored: next, committed: next, letters });
        }
    }

    pub(super) fn opened(&self) -> Vec<TopicPartition> {
        let is_open = |(partition, found): (&TopicPartition, &Partition)| {
            found.open.is_some().then(|| partition.clone())
        };
        self.all.iter().filter_map(is_open).collect()
    }

    pub(super) fn is_opening(&self) -> bool {
        self.all.values().any(|partition| partition.open.is_none())
    }

    /// Takes note of a record that was read.
    pub(super) fn see(&mut self, partition: &TopicPartition, offset: i64) -> Seen {
        let Some(Partition { epoch, open: Some(open) }) = self.all.get_mut(partition) else {
            return Seen::Stale;
        };
        if offset < open.next {
            return Seen::Stale;
        }
        open.next = offset + 1;
        let is_letter = u64::try_from(offset).is_ok_and(|offset| open.letters.contains(offset));
        if is_letter { Seen::Letter(*epoch) } else { Seen::New(*epoch) }
    }

    /// A batch is stored that goes up to `next`.
    pub(super) fn stored(&mut self, next: &BTreeMap<TopicPartition, (Epoch, i64)>) {
        for (partition, (epoch, next)) in next {
            if let Some(open) = self.current(partition, *epoch) {
                open.stored = open.stored.max(*next);
            }
        }
    }

    fn current(&mut self, partition: &TopicPartition, epoch: Epoch) -> Option<&mut Open> {
        self.all.get_mut(partition).filter(|found| found.epoch == epoch)?.open.as_mut()
    }

    /// What of a batch is still this member's.
    pub(super) fn still(&self, next: &BTreeMap<TopicPartition, (Epoch, i64)>) -> Vec<(TopicPartition, i64)> {
        let current = |(partition, (epoch, next)): (&TopicPartition, &(Epoch, i64))| {
            self.is_current(partition, *epoch).then(|| (partition.clone(), *next))
        };
        next.iter().filter_map(current).collect()
    }

    /// Offsets that are to be committed.
    pub(super) fn committable(&self) -> Vec<(TopicPartition, i64)> {
        let behind = |(partition, found): (&TopicPartition, &Partition)| {
            let open = found.open.as_ref()?;
            (open.stored > open.committed).then(|| (partition.clone(), open.stored))
        };
        self.all.iter().filter_map(behind).collect()
    }

    pub(super) fn committed(&mut self, offsets: &[(TopicPartition, i64)]) {
        for (partition, next) in offsets {
            if let Some(Partition { open: Some(open), .. }) = self.all.get_mut(partition) {
                open.committed = open.committed.max(*next);
            }
        }
    }

    /// A commit failed or may have: everything that is stored is committed once more. Costs nothing where it had worked.
    pub(super) fn commit_failed(&mut self) {
        for open in self.all.values_mut().filter_map(|partition| partition.open.as_mut()) {
            open.committed = open.committed.min(open.stored - 1);
        }
    }

    /// Next offset to be stored of each open partition.
    pub(super) fn stored_below(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        self.all.iter().filter_map(|(partition, found)| Some((partition, found.open.as_ref()?.stored)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new("t", number)
    }

    #[test]
    fn nothing_is_read_before_a_partition_is_open_and_nothing_twice() {
        let mut partitions = Partitions::default();
        let epoch = partitions.assign(&partition(1));
        assert!(partitions.is_opening() && partitions.opened().is_empty());
        assert_eq!(partitions.see(&partition(1), 7), Seen::Stale);
        let mut letters = OffsetSet::default();
        letters.insert(8, 9);
        partitions.open(&partition(1), 7, letters);
        assert_eq!(partitions.see(&partition(1), 6), Seen::Stale);
        assert_eq!(partitions.see(&partition(1), 7), Seen::New(epoch));
        assert_eq!(partitions.see(&partition(1), 7), Seen::Stale);
        assert_eq!(partitions.see(&partition(1), 8), Seen::Letter(epoch));
        assert_eq!(partitions.see(&partition(2), 8), Seen::Stale);
    }

    #[test]
    fn what_came_of_an_earlier_assignment_is_not_committed() {
        let mut partitions = Partitions::default();
        let (old, other) = (partitions.assign(&partition(1)), partitions.assign(&partition(2)));
        partitions.open(&partition(1), 0, OffsetSet::default());
        partitions.open(&partition(2), 0, OffsetSet::default());
        let next = [(partition(1), (old, 5)), (partition(2), (other, 6))].into();
        partitions.assign(&partition(1));
        partitions.open(&partition(1), 3, OffsetSet::default());
        assert_eq!(partitions.still(&next), [(partition(2), 6)]);
        partitions.stored(&next);
        assert_eq!(partitions.committable(), [(partition(2), 6)]);
        partitions.committed(&[(partition(2), 6)]);
        assert!(partitions.committable().is_empty());
        partitions.commit_failed();
        assert_eq!(partitions.committable(), [(partition(1), 3), (partition(2), 6)]);
        partitions.revoke(&partition(2));
        assert_eq!(partitions.committable(), [(partition(1), 3)]);
    }
}
