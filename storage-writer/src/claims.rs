//! Who may insert the rows of which partition. Pure: the claims in force, as this process knows them.
//!
//! A claim is a number; the greatest claim on a partition holds. A writer claims partitions when they are assigned to it,
//! and anew when the outcome of an insert of theirs is unknown: what was sent under an older claim can then store
//! nothing any more. `docs/GUARANTEES.md` has the protocol and why it holds.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::Mutex;

use crate::offsets::{Epoch, OffsetRange};

/// A claim: an epoch in the upper 64 bits, a random number in the lower, so that no two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Claim(u128);

impl Claim {
    /// A claim that is greater than `greatest`, and unlike any other by `random`.
    #[must_use]
    pub fn above(greatest: Self, random: u64) -> Self {
        let epoch = (greatest.0 >> 64).saturating_add(1);
        Self((epoch << 64) | u128::from(random))
    }

    /// The claim that was stored as this number.
    pub const fn from_number(number: u128) -> Self {
        Self(number)
    }

    /// The number it is stored as.
    pub const fn number(self) -> u128 {
        self.0
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.0 >> 64, self.0 & u128::from(u64::MAX))
    }
}

/// The partitions of one insert, and under which claim each of them is inserted.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Claimed(Vec<(u16, Claim)>);

impl Claimed {
    /// Partitions and their claims.
    pub fn new(mut claimed: Vec<(u16, Claim)>) -> Self {
        claimed.sort_unstable();
        Self(claimed)
    }

    /// The partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().map(|(partition, _)| *partition)
    }

    /// The claim on a partition; `None` if it is not among them.
    pub fn get(&self, partition: u16) -> Option<Claim> {
        self.0.binary_search_by_key(&partition, |(partition, _)| *partition).ok().map(|index| self.0[index].1)
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The partitions of each claim.
    pub fn by_claim(&self) -> BTreeMap<Claim, Vec<u16>> {
        let mut by_claim: BTreeMap<Claim, Vec<u16>> = BTreeMap::new();
        for (partition, claim) in &self.0 {
            by_claim.entry(*claim).or_default().push(*partition);
        }
        by_claim
    }
}

/// The claims that this process holds, by the assignment they belong to. Shared by the consumer's thread and all inserts.
#[derive(Debug, Default)]
pub struct Claims(Mutex<BTreeMap<u16, (Epoch, Claim)>>);

impl Claims {
    /// The partition may be inserted under this claim, as long as its assignment lasts.
    pub fn hold(&self, partition: u16, epoch: Epoch, claim: Claim) {
        self.0.lock().insert(partition, (epoch, claim));
    }

    /// The partition is held no longer: its assignment ended, or another writer has claimed it.
    pub fn give_up(&self, partition: u16) {
        self.0.lock().remove(&partition);
    }

    /// Gives the partition up if it is still held under this claim.
    pub fn lose(&self, partition: u16, claim: Claim) {
        let mut held = self.0.lock();
        if held.get(&partition).is_some_and(|(_, held)| *held == claim) {
            held.remove(&partition);
        }
    }

    /// Every partition held, and its claim.
    pub fn all(&self) -> Claimed {
        Claimed::new(self.0.lock().iter().map(|(partition, (_, claim))| (*partition, *claim)).collect())
    }

    /// Of the partitions of a batch those that are still held under the assignment they were read in.
    pub fn of(&self, ranges: &[OffsetRange]) -> Claimed {
        let held = self.0.lock();
        let claim = |range: &OffsetRange| {
            let partition = u16::try_from(range.partition).ok()?;
            let (epoch, claim) = held.get(&partition)?;
            (*epoch == range.epoch).then_some((partition, *claim))
        };
        Claimed::new(ranges.iter().filter_map(claim).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::Offsets;

    #[test]
    fn a_claim_is_above_every_claim_of_an_earlier_epoch() {
        let first = Claim::above(Claim::default(), u64::MAX);
        let second = Claim::above(first, 0);
        assert!(second > first && first > Claim::default());
        assert_ne!(Claim::above(first, 1), Claim::above(first, 2));
        assert_eq!(second.to_string(), "2-0000000000000000");
        assert_eq!(Claim::from_number(second.number()), second);
    }

    #[test]
    fn partitions_are_held_by_assignment_and_claim() {
        let mut offsets = Offsets::default();
        let epoch = offsets.assign(3);
        let range = OffsetRange { partition: 3, epoch, first: 0, next: 1 };
        let (one, two) = (Claim::from_number(1), Claim::from_number(2));
        let claims = Claims::default();
        assert!(claims.of(&[range]).is_empty());
        claims.hold(3, epoch, one);
        assert_eq!(claims.of(&[range]).get(3), Some(one));
        claims.lose(3, two);
        assert_eq!(claims.all().get(3), Some(one));
        let later = offsets.assign(3);
        claims.hold(3, later, two);
        assert!(claims.of(&[range]).is_empty(), "read under an assignment that is over");
        claims.lose(3, two);
        assert!(claims.all().is_empty());
    }

    #[test]
    fn partitions_are_grouped_by_claim() {
        let (one, two) = (Claim::from_number(1), Claim::from_number(2));
        let claimed = Claimed::new(vec![(7, one), (5, two), (6, one)]);
        assert_eq!(claimed.partitions().collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(claimed.by_claim(), BTreeMap::from([(one, vec![6, 7]), (two, vec![5])]));
        assert_eq!(claimed.get(8), None);
    }
}
