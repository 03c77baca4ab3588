//! Which offsets of each partition are rebuilt.

use std::ops::Range;

use penstock_proto::topics::READINGS;
use serde::{Deserialize, Serialize};

use crate::cluster::Inquiry;
use crate::{Cluster, Moment, OperatorError};

/// Offsets that are rebuilt: for each partition the first, and the one behind the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ranges(pub(super) Vec<(u64, u64)>);

/// What Kafka has.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) ranges: Ranges,
    /// The oldest offset of each partition.
    pub(super) lows: Vec<u64>,
}

impl Ranges {
    /// How many offsets these are.
    pub(super) fn offsets(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from).sum()
    }

    /// Partitions of which something is rebuilt.
    pub(super) fn filled(&self) -> impl Iterator<Item = (usize, Range<u64>)> + '_ {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, (from, to))| from < to)
            .map(|(index, (from, to))| (index, *from..*to))
    }

    /// The condition for rows with these offsets. The bounds over all of them come first: the index of offsets knows no
    /// partitions. An array has 0 behind its end, so a partition that does not exist has no offset inside.
    pub(super) fn inside(&self) -> String {
        let from = self.filled().map(|(_, range)| range.start).min().unwrap_or(0);
        let to = self.filled().map(|(_, range)| range.end).max().unwrap_or(0);
        format!(
            "(kafka_offset >= {from} AND kafka_offset < {to} AND {})",
            self.covers("kafka_partition", "kafka_offset")
        )
    }

    /// The condition for all other rows.
    pub(super) fn outside(&self) -> String {
        format!("NOT {}", self.covers("kafka_partition", "kafka_offset"))
    }

    /// Whether an offset that an expression names is one of these.
    pub(super) fn covers(&self, partition: &str, offset: &str) -> String {
        let bound = |number: fn(&(u64, u64)) -> u64| {
            let numbers: Vec<String> = self.0.iter().map(|range| number(range).to_string()).collect();
            format!("arrayElement(CAST([{}] AS Array(UInt64)), {partition} + 1)", numbers.join(","))
        };
        format!("({offset} >= {} AND {offset} < {})", bound(|range| range.0), bound(|range| range.1))
    }
}

/// Asks Kafka, the committed offsets first.
pub(super) fn ask(
    cluster: &Cluster,
    group: &str,
    from: Option<Moment>,
    to: Option<Moment>,
) -> Result<Asked, OperatorError> {
    let inquiry = cluster.inquire(READINGS, group)?;
    // Asked for first, so that a topic that is not there is said to be so.
    inquiry.watermarks(0)?;
    let committed = inquiry.committed()?;
    let begins = from.map(|moment| inquiry.at_time(moment.ms)).transpose()?;
    let ends = to.map(|moment| inquiry.at_time(moment.ms)).transpose()?;
    let at = |found: &Option<Vec<Option<i64>>>, index: usize| {
        found.as_ref().map(|offsets| offsets.get(index).copied().flatten())
    };
    let (mut ranges, mut lows, mut has_records) = (Ranges::default(), Vec::new(), false);
    for (index, low, high) in watermarks(&inquiry)? {
        has_records |= low < high;
        let committed = committed.get(index).copied().flatten();
        ranges.0.push(range(low, high, committed, at(&begins, index), at(&ends, index)));
        lows.push(low.unsigned_abs());
    }
    if has_records && committed.iter().all(Option::is_none) {
        return Err(OperatorError::WriterNeverRan {
            group: group.to_owned(),
            topic: cluster.topic(READINGS),
        });
    }
    Ok(Asked { ranges, lows })
}

fn watermarks(inquiry: &Inquiry) -> Result<Vec<(usize, i64, i64)>, OperatorError> {
    (0..inquiry.partitions())
        .zip(0..)
        .map(|(partition, index)| inquiry.watermarks(partition).map(|(low, high)| (index, low, high)))
        .collect()
}

/// The oldest offsets now.
pub(super) fn lows(cluster: &Cluster, group: &str) -> Result<Vec<u64>, OperatorError> {
    let inquiry = cluster.inquire(READINGS, group)?;
    Ok(watermarks(&inquiry)?.into_iter().map(|(_, low, _)| low.unsigned_abs()).collect())
}

/// `begins` and `ends`: the first offset that is not older than the moment, if there is a moment; the inner `None`: all
/// are older. What the writer has not committed is its own to store.
fn range(
    low: i64,
    high: i64,
    committed: Option<i64>,
    begins: Option<Option<i64>>,
    ends: Option<Option<i64>>,
) -> (u64, u64) {
    let from = begins.map_or(low, |offset| offset.unwrap_or(high)).max(low);
    let asked_to = ends.map_or(high, |offset| offset.unwrap_or(high));
    let to = asked_to.min(high).min(committed.unwrap_or(from)).max(from);
    (from.unsigned_abs(), to.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rebuilt_is_in_kafka_committed_and_asked_for() {
        assert_eq!(range(10, 100, Some(80), None, None), (10, 80));
        assert_eq!(range(10, 100, Some(200), None, None), (10, 100));
        assert_eq!(range(10, 100, Some(80), Some(Some(30)), Some(Some(50))), (30, 50));
        assert_eq!(range(10, 100, Some(80), Some(Some(5)), Some(None)), (10, 80));
        assert_eq!(range(10, 100, Some(80), Some(None), None), (100, 100), "all are before the beginning");
        assert_eq!(range(10, 100, Some(80), Some(Some(90)), None), (90, 90), "the writer is not so far");
        assert_eq!(range(10, 100, None, None, None), (10, 10));
        assert_eq!(range(10, 100, Some(3), None, None), (10, 10), "retention was quicker than the writer");
    }

    #[test]
    fn conditions_name_the_bounds_of_each_partition() {
        let ranges = Ranges(vec![(5, 9), (0, 0), (2, 7)]);
        assert_eq!(ranges.offsets(), 9);
        assert_eq!(ranges.filled().collect::<Vec<_>>(), [(0, 5..9), (2, 2..7)]);
        let inside = ranges.inside();
        assert!(inside.starts_with("(kafka_offset >= 2 AND kafka_offset < 9 AND "), "{inside}");
        assert!(inside.contains("[5,0,2]") && inside.contains("[9,0,7]"), "{inside}");
        assert!(ranges.outside().starts_with("NOT ("), "{}", ranges.outside());
    }
}
