//! Records that have neither a row nor a letter at their offset, and what explains them. Pure.

use std::collections::BTreeSet;

use penstock_kafka::IncomingRecord;
use penstock_storage_writer::admit::{Record, admit};

use super::report::{Breach, Kind, Report};
use super::rows::Key;

/// A record that is to be explained.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    partition: u32,
    offset: u64,
    /// The reading's key in the table; why it has none otherwise.
    key: Result<Key, String>,
}

impl Suspect {
    pub(super) fn of(partition: u32, offset: u64, record: &IncomingRecord<'_>) -> Self {
        let payload = (!record.is_tombstone).then_some(record.payload);
        let key = admit(&Record { key: record.key, payload })
            .map(|(device, reading)| Key {
                device: u128::from_be_bytes(*device.as_bytes()),
                timestamp_ms: reading.timestamp_ms,
                sequence: reading.sequence,
            })
            .map_err(|invalid| invalid.to_string());
        Self { partition, offset, key }
    }

    /// What to ask ClickHouse for.
    pub(super) fn key(&self) -> Option<Key> {
        self.key.as_ref().ok().copied()
    }

    /// Explains it or makes it a breach. `stored`: keys that have a row. Rows that are older than `kept_from_ms` are
    /// deleted by the table.
    pub(super) fn judge(&self, stored: &BTreeSet<Key>, kept_from_ms: i64, report: &mut Report) {
        match &self.key {
            Ok(key) if stored.contains(key) => report.explained.resent += 1,
            Ok(key) if key.timestamp_ms < kept_from_ms => report.explained.expired += 1,
            Ok(Key { device, timestamp_ms, sequence }) => {
                let detail = format!("timestamp {timestamp_ms} ms, sequence {sequence}");
                let device = penstock_proto::DeviceId::from_bytes(device.to_be_bytes());
                report.breach(
                    Breach::new(Kind::Missing, self.partition, self.offset, detail).of_device(&device),
                );
            }
            Err(why) => {
                let detail = format!("it should be a dead letter: {why}");
                report.breach(Breach::new(Kind::Missing, self.partition, self.offset, detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_again_and_expired_are_no_breaches() {
        let key = |timestamp_ms| Key { device: 7, timestamp_ms, sequence: 1 };
        let mut report = Report::new("t".into(), "g".into(), (None, None), Vec::new(), 10);
        let stored = BTreeSet::from([key(100), key(5)]);
        for (offset, found) in [
            (0, Ok(key(100))),
            (1, Ok(key(9))),
            (2, Ok(key(10))),
            (3, Err("bad-key: none".to_owned())),
            (4, Ok(key(5))),
        ] {
            Suspect { partition: 3, offset, key: found }.judge(&stored, 10, &mut report);
        }
        assert_eq!((report.explained.resent, report.explained.expired), (2, 1));
        let missing: Vec<_> = report.breaches.iter().map(|breach| breach.offset).collect();
        assert_eq!(missing, [2, 3]);
        assert_eq!(report.breaches[0].device.as_deref(), Some("00000000-0000-0000-0000-000000000007"));
        assert_eq!(report.breaches[1].detail, "it should be a dead letter: bad-key: none");
    }
}
