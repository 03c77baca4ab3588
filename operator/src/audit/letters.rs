//! Dead letters of storage by where they come from: a compressed set of offsets for each partition, about 2 bytes a
//! letter where there are many, about 20 where they are far apart.

use std::ops::ControlFlow;

use penstock_kafka::ScanFrom;
use penstock_proto::topics::{READINGS, STORAGE_FAILURES};
use roaring::RoaringTreemap;

use super::report::{Breach, Kind, Report};
use crate::dlq::{Letter, LetterTopic};
use crate::text::counted;
use crate::{Cluster, OperatorError, Progress};

const RECORDS_AT_ONCE: usize = 1_000;

/// Reads the letters once: for each partition of `report.ranges` the offsets that have one.
pub(super) fn read(
    cluster: &Cluster,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<Vec<RoaringTreemap>, OperatorError> {
    let mut letters = Letters { of: vec![RoaringTreemap::new(); report.ranges.len()], report };
    let (topic, mut read) = (cluster.topic(READINGS), 0u64);
    cluster.scan(STORAGE_FAILURES, &ScanFrom::Beginning, RECORDS_AT_ONCE, |batch| {
        for record in batch {
            letters.add(&Letter::of(LetterTopic::Storage, &record), &topic);
        }
        read += batch.len() as u64;
        progress.tick(|_| format!("{} read", counted(read, "dead letter")));
        Ok(ControlFlow::<()>::Continue(()))
    })?;
    Ok(letters.of)
}

struct Letters<'r> {
    of: Vec<RoaringTreemap>,
    report: &'r mut Report,
}

impl Letters<'_> {
    /// Takes up a letter, if it is of a record of `topic` that is audited.
    fn add(&mut self, letter: &Letter<'_>, topic: &str) {
        let Some(source) = letter.source() else {
            self.report.explained.letters_without_source += 1;
            return;
        };
        let (Ok(index), Ok(offset)) = (usize::try_from(source.partition), u64::try_from(source.offset))
        else {
            return;
        };
        let (Some(range), Some(offsets)) = (self.report.ranges.get(index), self.of.get_mut(index)) else {
            return;
        };
        if source.topic != topic || !range.offsets().contains(&offset) {
            return;
        }
        let partition = range.partition;
        self.report.letters += 1;
        if !offsets.insert(offset) {
            let breach = Breach::new(Kind::DoubledLetter, partition, offset, format!("one is {}", letter.id));
            self.report.breach(match letter.device() {
                Some(device) => breach.of_device(&device),
                None => breach,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use penstock_proto::topics::header;

    use super::super::report::PartitionRange;
    use super::*;
    use crate::dlq::LetterId;

    fn letter<'a>(
        offset: i64,
        topic: &'a str,
        source: &'a str,
        headers: &mut Vec<(&'a str, &'a [u8])>,
    ) -> Letter<'a> {
        headers.push((header::SOURCE_TOPIC, topic.as_bytes()));
        headers.push((header::SOURCE_PARTITION, b"1"));
        headers.push((header::SOURCE_OFFSET, source.as_bytes()));
        Letter {
            id: LetterId { topic: LetterTopic::Storage, partition: 0, offset },
            timestamp_ms: 0,
            key: Some(&[7; 16]),
            payload: b"",
            headers: std::mem::take(headers),
        }
    }

    #[test]
    fn letters_of_the_audited_offsets_count_and_a_second_one_is_a_breach() {
        let range =
            |partition| PartitionRange { partition, from: 10, to: 20, committed: Some(20), low: 0, high: 20 };
        let mut report = Report::new("t".into(), "g".into(), (None, None), vec![range(0), range(1)], 10);
        let mut letters = Letters { of: vec![RoaringTreemap::new(); 2], report: &mut report };
        for (offset, topic, source) in [
            (0, "t", "10"),
            (1, "t", "9"),
            (2, "t", "20"),
            (3, "other", "11"),
            (4, "t", "x"),
            (5, "t", "10"),
            (6, "t", "19"),
        ] {
            letters.add(&letter(offset, topic, source, &mut Vec::new()), "t");
        }
        let of = letters.of;
        assert_eq!(of[1].iter().collect::<Vec<_>>(), [10, 19]);
        assert!(of[0].is_empty());
        assert_eq!((report.letters, report.explained.letters_without_source), (3, 1));
        let breach = &report.breaches[0];
        assert_eq!((breach.kind, breach.partition, breach.offset), (Kind::DoubledLetter, 1, 10));
        assert_eq!(breach.detail, "one is storage/0/5");
    }
}
