//! Which alerts are dealt with, and so which offsets can be committed. Pure.
//!
//! An offset is committed only when every record before it was delivered, held back by a silence or an
//! acknowledgement, or is in the topic of delivery failures.

use std::collections::{BTreeMap, BTreeSet};

use penstock_proto::topics::{DEVICE_ALERTS, LOW_BATTERY};

/// A topic of alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertTopic {
    /// [`DEVICE_ALERTS`].
    Device,
    /// [`LOW_BATTERY`].
    LowBattery,
}

impl AlertTopic {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Device, Self::LowBattery];

    /// Its name in the contract, without the configured prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => DEVICE_ALERTS,
            Self::LowBattery => LOW_BATTERY,
        }
    }
}

/// A partition of a topic of alerts.
pub type Part = (AlertTopic, i32);

/// An assignment of a partition: what an earlier one has read moves no offset of a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

/// Where an alert was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Topic and partition.
    pub part: Part,
    /// In which assignment.
    pub epoch: Epoch,
    /// Its offset.
    pub offset: i64,
}

#[derive(Debug)]
struct Owned {
    epoch: Epoch,
    /// Records are passed over before it is.
    open: bool,
    /// The next record to read.
    position: i64,
    /// Records that were read and are not dealt with.
    pending: BTreeSet<i64>,
    committed: Option<i64>,
}

impl Owned {
    fn front(&self) -> i64 {
        self.pending.first().copied().unwrap_or(self.position)
    }
}

/// The partitions of this process.
#[derive(Debug, Default)]
pub struct Ledger {
    owned: BTreeMap<Part, Owned>,
    next_epoch: u64,
}

impl Ledger {
    /// The partition belongs to this process now. Its records are passed over until it is [opened](Self::open).
    pub fn assign(&mut self, part: Part) -> Epoch {
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        let owned = Owned { epoch, open: false, position: 0, pending: BTreeSet::new(), committed: None };
        self.owned.insert(part, owned);
        epoch
    }

    /// Records of the partition are read from `floor` on; `is_committed`: that is what the group has committed. `false`
    /// if the assignment is over.
    pub fn open(&mut self, part: Part, epoch: Epoch, floor: i64, is_committed: bool) -> bool {
        let Some(owned) = self.owned.get_mut(&part).filter(|owned| owned.epoch == epoch) else {
            return false;
        };
        owned.open = true;
        owned.position = floor;
        owned.committed = is_committed.then_some(floor);
        true
    }

    /// Whether this assignment of the partition is in force.
    pub fn is_current(&self, part: Part, epoch: Epoch) -> bool {
        self.owned.get(&part).is_some_and(|owned| owned.epoch == epoch)
    }

    /// The partition is another's now: nothing of it will be committed.
    pub fn revoke(&mut self, part: Part) {
        self.owned.remove(&part);
    }

    /// Takes note of a record; `None` if it must be passed over.
    pub fn read(&mut self, part: Part, offset: i64) -> Option<Source> {
        let owned = self.owned.get_mut(&part).filter(|owned| owned.open && offset >= owned.position)?;
        owned.position = offset + 1;
        owned.pending.insert(offset);
        Some(Source { part, epoch: owned.epoch, offset })
    }

    /// A record is dealt with. Of an earlier assignment, or twice, it changes nothing.
    pub fn done(&mut self, source: &Source) {
        if let Some(owned) = self.owned.get_mut(&source.part).filter(|owned| owned.epoch == source.epoch) {
            owned.pending.remove(&source.offset);
        }
    }

    /// Whether a record was read and is not dealt with.
    pub fn is_pending(&self, source: &Source) -> bool {
        let owned = self.owned.get(&source.part).filter(|owned| owned.epoch == source.epoch);
        owned.is_some_and(|owned| owned.pending.contains(&source.offset))
    }

    /// Next offsets that are not committed yet.
    pub fn committable(&self) -> Vec<(Part, i64)> {
        let new = |(part, owned): (&Part, &Owned)| {
            let front = owned.front();
            (owned.open && owned.committed != Some(front)).then_some((*part, front))
        };
        self.owned.iter().filter_map(new).collect()
    }

    /// These offsets were handed to Kafka.
    pub fn committed(&mut self, offsets: &[(Part, i64)]) {
        for (part, next) in offsets {
            if let Some(owned) = self.owned.get_mut(part) {
                owned.committed = Some(*next);
            }
        }
    }

    /// A commit failed: everything is to be committed again.
    pub fn commit_failed(&mut self) {
        self.owned.values_mut().for_each(|owned| owned.committed = None);
    }

    /// The partitions that are read, and the first offset of each that is not dealt with.
    pub fn fronts(&self) -> impl Iterator<Item = (Part, i64)> + '_ {
        self.owned.iter().filter(|(_, owned)| owned.open).map(|(part, owned)| (*part, owned.front()))
    }

    /// Whether there are partitions that are not open yet.
    pub fn is_opening(&self) -> bool {
        self.owned.values().any(|owned| !owned.open)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PART: Part = (AlertTopic::Device, 3);

    fn opened(ledger: &mut Ledger, part: Part, floor: i64) -> Epoch {
        let epoch = ledger.assign(part);
        assert!(ledger.open(part, epoch, floor, true));
        epoch
    }

    #[test]
    fn nothing_is_committed_past_a_record_that_is_not_dealt_with() {
        let mut ledger = Ledger::default();
        opened(&mut ledger, PART, 10);
        assert_eq!(ledger.committable(), []);
        // Offset 11 is the marker of a transaction.
        let [a, b] = [10, 12].map(|offset| ledger.read(PART, offset).unwrap());
        ledger.done(&b);
        assert_eq!(ledger.committable(), []);
        ledger.done(&a);
        assert_eq!(ledger.committable(), [(PART, 13)]);
        ledger.committed(&[(PART, 13)]);
        assert_eq!(ledger.committable(), []);
        ledger.commit_failed();
        assert_eq!(ledger.committable(), [(PART, 13)]);
    }

    #[test]
    fn a_group_without_a_committed_offset_commits_where_it_begins() {
        let mut ledger = Ledger::default();
        let epoch = ledger.assign(PART);
        assert_eq!(ledger.read(PART, 7), None, "it is not open");
        assert!(ledger.is_opening() && ledger.open(PART, epoch, 7, false));
        assert_eq!(ledger.committable(), [(PART, 7)]);
        assert_eq!(ledger.read(PART, 6), None);
    }

    #[test]
    fn what_an_earlier_assignment_read_moves_no_offset_of_a_later_one() {
        let mut ledger = Ledger::default();
        let epoch = opened(&mut ledger, PART, 0);
        let before = ledger.read(PART, 0).unwrap();
        ledger.revoke(PART);
        opened(&mut ledger, PART, 0);
        ledger.read(PART, 0).unwrap();
        ledger.done(&before);
        assert_eq!(ledger.committable(), []);
        assert!(!ledger.is_current(PART, epoch) && !ledger.open(PART, epoch, 0, true));
    }

    proptest! {
        #[test]
        fn in_whatever_order_records_end_the_commit_is_the_unbroken_front(
            order in Just((0..12i64).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut ledger = Ledger::default();
            opened(&mut ledger, PART, 0);
            let sources: Vec<_> = (0..12).map(|offset| ledger.read(PART, offset).unwrap()).collect();
            let mut done = [false; 12];
            for offset in order {
                let index = usize::try_from(offset).unwrap();
                ledger.done(&sources[index]);
                done[index] = true;
                let front = i64::try_from(done.iter().take_while(|done| **done).count()).unwrap();
                prop_assert_eq!(ledger.fronts().next(), Some((PART, front)));
            }
        }
    }
}
