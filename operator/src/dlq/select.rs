//! Which dead letters an operator means. Pure.

use std::collections::{BTreeMap, BTreeSet};

use penstock_kafka::ScanFrom;
use penstock_proto::DeviceId;

use super::letter::Letter;
use super::{LetterId, LetterTopic};
use crate::Moment;

/// Which dead letters are meant: all conditions that are given have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// In this topic; in both where it is `None`.
    pub topic: Option<LetterTopic>,
    /// These; all where it is empty.
    pub ids: BTreeSet<LetterId>,
    /// With this reason.
    pub reason: Option<String>,
    /// Of this device.
    pub device: Option<DeviceId>,
    /// Stored at this moment or later.
    pub since: Option<Moment>,
    /// Stored before this moment.
    pub until: Option<Moment>,
}

impl Selection {
    /// Whether every letter there is is meant.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Where to read each topic that may hold a letter of this selection.
    pub(crate) fn starts(&self) -> Vec<(LetterTopic, ScanFrom)> {
        let topics =
            LetterTopic::ALL.into_iter().filter(|topic| self.topic.is_none_or(|only| only == *topic));
        if self.ids.is_empty() {
            let from = self.since.map_or(ScanFrom::Beginning, |since| ScanFrom::TimestampMs(since.ms));
            return topics.map(|topic| (topic, from.clone())).collect();
        }
        topics
            .filter_map(|topic| {
                let mut first = BTreeMap::new();
                for id in self.ids.iter().filter(|id| id.topic == topic && id.is_possible()) {
                    // Ids are in order, so the first of a partition is the smallest.
                    first.entry(id.partition).or_insert(id.offset);
                }
                (!first.is_empty()).then(|| (topic, ScanFrom::Offsets(first.into_iter().collect())))
            })
            .collect()
    }

    /// Whether a letter is meant.
    pub(crate) fn matches(&self, letter: &Letter<'_>) -> bool {
        self.topic.is_none_or(|topic| topic == letter.id.topic)
            && (self.ids.is_empty() || self.ids.contains(&letter.id))
            && self.since.is_none_or(|since| letter.timestamp_ms >= since.ms)
            && self.until.is_none_or(|until| letter.timestamp_ms < until.ms)
            && self.reason.as_ref().is_none_or(|reason| letter.reason() == *reason)
            && self.device.is_none_or(|device| letter.device() == Some(device))
    }
}

#[cfg(test)]
mod tests {
    use penstock_proto::topics::header;

    use super::super::letter::tests::{DEVICE, letter};
    use super::*;

    fn id(text: &str) -> LetterId {
        text.parse().unwrap()
    }

    #[test]
    fn every_condition_has_to_hold() {
        let headers: &[(&str, &[u8])] = &[(header::REASON, b"too-old")];
        let letter = letter(LetterTopic::Readings, b"", headers);
        let meant = |change: fn(&mut Selection)| {
            let mut selection = Selection::default();
            change(&mut selection);
            selection.matches(&letter)
        };
        assert!(meant(|_| ()));
        assert!(meant(|s| s.topic = Some(LetterTopic::Readings)));
        assert!(!meant(|s| s.topic = Some(LetterTopic::Storage)));
        assert!(meant(|s| s.ids = [id("readings/0/0"), id("storage/0/0")].into()));
        assert!(!meant(|s| s.ids = [id("readings/0/1"), id("storage/0/0")].into()));
        assert!(meant(|s| s.reason = Some("too-old".into())));
        assert!(!meant(|s| s.reason = Some("too".into())));
        assert!(meant(|s| s.device = Some(DEVICE)));
        assert!(!meant(|s| s.device = Some(DeviceId::from_bytes([8; 16]))));
        assert!(meant(|s| s.since = Some(Moment { ms: 5 })));
        assert!(!meant(|s| s.since = Some(Moment { ms: 6 })));
        assert!(meant(|s| s.until = Some(Moment { ms: 6 })));
        assert!(!meant(|s| s.until = Some(Moment { ms: 5 })), "the end does not belong to it");
        assert!(!meant(|s| {
            s.reason = Some("too-old".into());
            s.until = Some(Moment { ms: 5 });
        }));
    }

    #[test]
    fn topics_are_read_from_the_first_letter_that_can_be_meant() {
        assert_eq!(Selection::default().starts().len(), 2);
        let since = Selection {
            topic: Some(LetterTopic::Storage),
            since: Some(Moment { ms: 9 }),
            ..Selection::default()
        };
        assert_eq!(since.starts(), [(LetterTopic::Storage, ScanFrom::TimestampMs(9))]);
        let ids = [id("storage/5/2"), id("storage/3/17"), id("storage/3/4"), id("storage/6/0")]
            .into_iter()
            .collect::<BTreeSet<_>>();
        let by_id = Selection { ids, ..Selection::default() };
        assert_eq!(by_id.starts(), [(LetterTopic::Storage, ScanFrom::Offsets(vec![(3, 4), (5, 2)]))]);
    }
}
