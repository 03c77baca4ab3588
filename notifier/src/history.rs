//! What fired before a partition was taken over: read from the beginning of the topic up to where this group goes on.
//!
//! A group that has committed nothing yet goes back as far as alerts are tried to be delivered; what began before that
//! and still fires is notified, what has ended is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use penstock_kafka::{ClientSettings, GroupObserver, KafkaError, ScanFrom, Scanner, TopicPartition};
use penstock_proto::alert_json::from_json;
use tokio_util::sync::CancellationToken;

use crate::ledger::{AlertTopic, Epoch, Part, Source};
use crate::notice::{Former, Notice};
use crate::payload::check;

const ASK: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);
const RECORDS_MAX: usize = 1_000;

/// Where a partition is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) part: Part,
    pub(crate) epoch: Epoch,
    pub(crate) floor: i64,
    /// The group has committed it.
    pub(crate) is_committed: bool,
}

/// Partitions that can be read now.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) openings: Vec<Opening>,
    /// What fires.
    pub(crate) firing: Vec<Former>,
}

/// Who looks back.
#[derive(Clone, Debug)]
pub(crate) struct Historian {
    pub(crate) client: ClientSettings,
    pub(crate) group: String,
    pub(crate) prefix: String,
    /// How far a new group goes back.
    pub(crate) back: Duration,
    /// Bytes of firing alerts that are remembered.
    pub(crate) bytes_max: usize,
    pub(crate) stop: CancellationToken,
}

impl Historian {
    /// Blocks until it is known.
    pub(crate) fn restore(&self, parts: &[(Part, Epoch)], now_ms: i64) -> Result<Restored, KafkaError> {
        let openings = self.openings(parts, now_ms)?;
        let mut restored = Restored { openings, firing: Vec::new() };
        for topic in AlertTopic::ALL {
            let of_topic = |opening: &&Opening| opening.part.0 == topic && opening.floor > 0;
            let openings: BTreeMap<i32, Opening> =
                restored.openings.iter().filter(of_topic).map(|opening| (opening.part.1, *opening)).collect();
            if !openings.is_empty() {
                self.fold(topic, &openings, &mut restored.firing)?;
            }
        }
        Ok(restored)
    }

    fn named(&self, (topic, partition): Part) -> TopicPartition {
        TopicPartition::new(format!("{}{}", self.prefix, topic.name()), partition)
    }

    fn openings(&self, parts: &[(Part, Epoch)], now_ms: i64) -> Result<Vec<Opening>, KafkaError> {
        let observer = GroupObserver::new(&self.client, &self.group, false)?;
        let named: Vec<_> = parts.iter().map(|(part, _)| self.named(*part)).collect();
        let committed: HashMap<_, _> = observer.committed(&named, ASK)?.into_iter().collect();
        let back_ms = i64::try_from(self.back.as_millis()).unwrap_or(i64::MAX);
        let since_ms = now_ms.saturating_sub(back_ms).max(0);
        let mut openings = Vec::new();
        for ((part, epoch), named) in parts.iter().zip(named) {
            let (low, high) = observer.watermarks(&named, ASK)?;
            let found = committed.get(&named).copied().flatten();
            let floor = match found {
                Some(offset) => offset,
                None => {
                    let found = observer.offsets_for_times(&[(named.clone(), since_ms)], ASK)?;
                    found.first().and_then(|(_, offset)| *offset).unwrap_or(high)
                }
            };
            let opening = Opening {
                part: *part,
                epoch: *epoch,
                floor: floor.clamp(low, high),
                is_committed: found.is_some(),
            };
            openings.push(opening);
        }
        Ok(openings)
    }

    fn fold(
        &self,
        topic: AlertTopic,
        openings: &BTreeMap<i32, Opening>,
        into: &mut Vec<Former>,
    ) -> Result<(), KafkaError> {
        let from = ScanFrom::Offsets(openings.keys().map(|partition| (*partition, 0)).collect());
        let name = format!("{}{}", self.prefix, topic.name());
        let mut scanner = Scanner::open(&self.client, &name, &from, true)?;
        let mut firing: HashMap<String, Former> = HashMap::new();
        let mut bytes = 0usize;
        let mut open: BTreeSet<i32> = openings.keys().copied().collect();
        while !open.is_empty() && !self.stop.is_cancelled() {
            let Some(batch) = scanner.next_batch(RECORDS_MAX, POLL)? else { break };
            for record in &batch {
                let Some(opening) = openings.get(&record.partition) else { continue };
                if record.offset + 1 >= opening.floor {
                    open.remove(&record.partition);
                }
                if record.offset >= opening.floor {
                    continue;
                }
                let Some(alert) = from_json(record.payload).ok().filter(|alert| check(alert).is_ok()) else {
                    continue;
                };
                if let Some(former) = firing.remove(&alert.id) {
                    bytes = bytes.saturating_sub(former.notice.bytes());
                }
                let source = Source { part: opening.part, epoch: opening.epoch, offset: record.offset };
                let key = record.key.map(<[u8]>::to_vec);
                let notice = Notice { alert, key, payload: record.payload.to_vec(), source };
                // Beyond the budget the desk would not take it either.
                if !notice.is_resolved() && bytes.saturating_add(notice.bytes()) <= self.bytes_max {
                    bytes += notice.bytes();
                    let id = notice.alert.id.clone();
                    let (notice, written_ms) = (Arc::new(notice), record.timestamp_ms);
                    firing.insert(id, Former { notice, written_ms, is_old: !opening.is_committed });
                }
            }
        }
        into.extend(firing.into_values());
        Ok(())
    }
}
