//! Which offsets an audit looks at.

use std::ops::Range;

use penstock_proto::topics::READINGS;

use super::report::PartitionRange;
use crate::cluster::Inquiry;
use crate::{Cluster, Moment, OperatorError};

/// What is known about the offsets of a partition.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    low: i64,
    high: i64,
    committed: Option<i64>,
    /// First offset at or after the moment to begin at, if there is such a moment; the inner `None`: all are before it.
    begins: Option<Option<i64>>,
    ends: Option<Option<i64>>,
}

/// Asks Kafka, the committed offsets first: dead letters that are read later are then complete for what is below them.
pub(super) fn ask(
    cluster: &Cluster,
    group: &str,
    from: Option<Moment>,
    to: Option<Moment>,
) -> Result<(Inquiry, Vec<PartitionRange>), OperatorError> {
    let inquiry = cluster.inquire(READINGS, group)?;
    // Asked for first, so that a topic that is not there is said to be so.
    inquiry.watermarks(0)?;
    let committed = inquiry.committed()?;
    let begins = from.map(|moment| inquiry.at_time(moment.ms)).transpose()?;
    let ends = to.map(|moment| inquiry.at_time(moment.ms)).transpose()?;
    let mut ranges = Vec::new();
    let mut has_records = false;
    for (partition, committed) in (0..inquiry.partitions()).zip(&committed) {
        let (low, high) = inquiry.watermarks(partition)?;
        has_records |= low < high;
        let at = |found: &Option<Vec<Option<i64>>>| {
            let index = usize::try_from(partition).ok()?;
            found.as_ref().map(|offsets| offsets.get(index).copied().flatten())
        };
        let known = Known { low, high, committed: *committed, begins: at(&begins), ends: at(&ends) };
        ranges.push(known.range(partition.unsigned_abs()));
    }
    if has_records && committed.iter().all(Option::is_none) {
        return Err(OperatorError::WriterNeverRan {
            group: group.to_owned(),
            topic: cluster.topic(READINGS),
        });
    }
    Ok((inquiry, ranges))
}

impl Known {
    fn range(self, partition: u32) -> PartitionRange {
        let Self { low, high, committed, begins, ends } = self;
        let from = begins.map_or(low, |offset| offset.unwrap_or(high)).max(low);
        let asked_to = ends.map_or(high, |offset| offset.unwrap_or(high));
        // Where the writer has committed nothing, nothing is its work yet.
        let to = asked_to.min(high).min(committed.unwrap_or(from)).max(from);
        PartitionRange {
            partition,
            from: from.unsigned_abs(),
            to: to.unsigned_abs(),
            committed: committed.map(i64::unsigned_abs),
            low: low.unsigned_abs(),
            high: high.unsigned_abs(),
        }
    }
}

impl PartitionRange {
    pub(super) const fn offsets(&self) -> Range<u64> {
        self.from..self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(known: Known) -> Range<u64> {
        known.range(0).offsets()
    }

    #[test]
    fn what_is_audited_is_stored_committed_and_asked_for() {
        let known = Known { low: 10, high: 100, committed: Some(80), begins: None, ends: None };
        assert_eq!(range(known), 10..80);
        assert_eq!(
            range(Known { committed: Some(200), ..known }),
            10..100,
            "of a topic that was created anew"
        );
        assert_eq!(range(Known { begins: Some(Some(30)), ends: Some(Some(50)), ..known }), 30..50);
        assert_eq!(range(Known { ends: Some(None), ..known }), 10..80, "all records are before the end");
        assert_eq!(range(Known { begins: Some(None), ..known }), 100..100, "all are before the beginning");
        assert_eq!(range(Known { begins: Some(Some(5)), ..known }), 10..80);
        assert_eq!(range(Known { committed: None, ..known }), 10..10);
        assert_eq!(
            range(Known { committed: Some(3), ..known }),
            10..10,
            "retention was quicker than the writer"
        );
    }
}
