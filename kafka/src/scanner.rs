//! Reads a topic once, from a beginning to where it ended when the scan was opened, without a group.
//!
//! Never commits and never waits for records that were written after it was opened.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::settings::scanner_properties;
use crate::sys::{Code, GroupClient, Message, Messages};
use crate::{Batch, ClientSettings, KafkaError, TopicPartition};

/// How long opening a scan may ask Kafka for partitions and offsets.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before Kafka is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Bound on the records of one batch, whatever is asked for.
const RECORDS_MAX: usize = 1 << 20;

/// Where a scan begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanFrom {
    /// At the oldest record of every partition.
    Beginning,
    /// At the first record of every partition that is not older: milliseconds since the Unix epoch.
    TimestampMs(i64),
    /// At these offsets; partitions that are not named are not scanned. An offset that is not stored any more is taken
    /// as the oldest that is.
    Offsets(Vec<(i32, i64)>),
}

/// A scan in progress. Its calls block.
pub struct Scanner {
    /// Before the client, because it is dropped first: messages are part of it.
    messages: Messages,
    group: GroupClient,
    topic: Arc<str>,
    /// The oldest offset of each partition when it was opened.
    oldest: BTreeMap<i32, i64>,
    ends: Ends,
    last_error: Option<KafkaError>,
}

impl Scanner {
    /// Asks for the topic's partitions and where they end, and starts to read. Blocks for up to 30 s.
    ///
    /// # Errors
    /// The topic is not there, or Kafka could not be asked in time.
    pub fn open(
        client: &ClientSettings,
        topic: &str,
        from: &ScanFrom,
        read_committed: bool,
    ) -> Result<Self, KafkaError> {
        let group = GroupClient::new(&scanner_properties(client, read_committed)?)?;
        let patience = Patience(Instant::now());
        let mut ranges = BTreeMap::new();
        for partition in group.client().partitions(topic, OPEN_TIMEOUT)? {
            let range = patience.ask(|left| group.client().watermarks(topic, partition, left))?;
            ranges.insert(partition, range);
        }
        let starts = match from {
            ScanFrom::Beginning => ranges.iter().map(|(partition, (low, _))| (*partition, *low)).collect(),
            ScanFrom::Offsets(offsets) => offsets.clone(),
            ScanFrom::TimestampMs(time_ms) => {
                patience.ask(|left| starts_by_time(&group, topic, &ranges, *time_ms, left))?
            }
        };
        let name: Arc<str> = topic.into();
        let mut ends = Ends::default();
        let mut assignment = Vec::new();
        for (partition, start) in starts {
            let Some((low, high)) = ranges.get(&partition) else {
                return Err(Code::UNKNOWN_PARTITION.error(&format!("scan {topic}[{partition}]")));
            };
            let start = start.max(*low);
            if start < *high {
                ends.open.insert(partition, *high);
                assignment.push((TopicPartition { topic: Arc::clone(&name), partition }, start));
            }
        }
        group.assign(&assignment)?;
        let oldest = ranges.into_iter().map(|(partition, (low, _))| (partition, low)).collect();
        Ok(Self { group, topic: name, messages: Messages::default(), oldest, ends, last_error: None })
    }

    /// The next records, at most `records_max`; `None` at the end. Waits for the first record at most `timeout`: the
    /// batch is empty if there was none, and the scan goes on.
    ///
    /// # Errors
    /// Kafka refuses to be read (for example authorization). Connections that fail are retried, see
    /// [`Self::last_error`].
    pub fn next_batch(
        &mut self,
        records_max: usize,
        timeout: Duration,
    ) -> Result<Option<Batch<'_>>, KafkaError> {
        self.messages.clear();
        if self.ends.open.is_empty() {
            return Ok(None);
        }
        self.group.consume(&mut self.messages, records_max.clamp(1, RECORDS_MAX), timeout);
        let mut errors = Vec::new();
        self.messages.retain(|message| match message.code() {
            Code::NONE => self.ends.wants(message.partition(), message.offset()),
            Code::PARTITION_EOF => {
                self.ends.reached(message.partition(), message.offset());
                false
            }
            code => {
                errors.push((code, describe(message)));
                false
            }
        });
        while let Some(error) = self.group.next_error() {
            errors.push(error);
        }
        for (code, why) in errors {
            let retriable = code.is_retriable();
            let error = KafkaError::Client { code: code.name(), why, retriable, fatal: code == Code::FATAL };
            if !retriable {
                return Err(error);
            }
            self.last_error = Some(error);
        }
        self.pause_ended()?;
        if self.messages.len() == 0 && self.ends.open.is_empty() {
            return Ok(None);
        }
        Ok(Some(Batch::new(&mut self.messages)))
    }

    /// What is written to partitions after their end need not be fetched.
    fn pause_ended(&mut self) -> Result<(), KafkaError> {
        if self.ends.ended.is_empty() || self.ends.open.is_empty() {
            return Ok(());
        }
        let ended = self.ends.ended.drain(..);
        let ended: Vec<_> =
            ended.map(|partition| TopicPartition { topic: Arc::clone(&self.topic), partition }).collect();
        self.group.pause(&ended)
    }

    /// The latest error that librdkafka goes on after.
    pub const fn last_error(&self) -> Option<&KafkaError> {
        self.last_error.as_ref()
    }

    /// The partitions of the topic, and the oldest offset of each that was not deleted when the scan was opened.
    pub fn oldest(&self) -> impl Iterator<Item = (i32, i64)> {
        self.oldest.iter().map(|(partition, offset)| (*partition, *offset))
    }

    /// Partitions that are not read to their end yet, and the offsets at which they end.
    pub fn remaining(&self) -> impl Iterator<Item = (i32, i64)> {
        self.ends.open.iter().map(|(partition, end)| (*partition, *end))
    }
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").field("ends", &self.ends).finish_non_exhaustive()
    }
}

fn describe(message: Message<'_>) -> String {
    match message.topic() {
        "" => message.error_text(),
        topic => format!("{topic}[{}]: {}", message.partition(), message.error_text()),
    }
}

/// Asks until [`OPEN_TIMEOUT`] after a moment: a broker names leaders of new partitions a little before it leads them.
struct Patience(Instant);

impl Patience {
    fn ask<T>(&self, ask: impl Fn(Duration) -> Result<T, KafkaError>) -> Result<T, KafkaError> {
        loop {
            let left = OPEN_TIMEOUT.saturating_sub(self.0.elapsed());
            match ask(left) {
                Err(error) if error.is_transient() && left > RETRY_PAUSE => std::thread::sleep(RETRY_PAUSE),
                answer => return answer,
            }
        }
    }
}

fn starts_by_time(
    group: &GroupClient,
    topic: &str,
    ranges: &BTreeMap<i32, (i64, i64)>,
    time_ms: i64,
    timeout: Duration,
) -> Result<Vec<(i32, i64)>, KafkaError> {
    let times: Vec<_> =
        ranges.keys().map(|partition| (TopicPartition::new(topic, *partition), time_ms)).collect();
    let found = group.offsets_for_times(&times, timeout)?;
    Ok(found.into_iter().filter_map(|entry| Some((entry.partition.partition, entry.offset?))).collect())
}

/// Where the partitions of a scan end.
#[derive(Debug, Default)]
struct Ends {
    /// Partitions that are not read to their end yet.
    open: BTreeMap<i32, i64>,
    /// Partitions that have come to their end and are still being read.
    ended: Vec<i32>,
}

impl Ends {
    /// Whether a record belongs to the scan.
    fn wants(&mut self, partition: i32, offset: i64) -> bool {
        let wanted = self.open.get(&partition).is_some_and(|end| offset < *end);
        self.reached(partition, offset.saturating_add(1));
        wanted
    }

    /// Notes that the next record of a partition, if any, is at `offset` or after.
    fn reached(&mut self, partition: i32, offset: i64) {
        if self.open.get(&partition).is_some_and(|end| offset >= *end) {
            self.open.remove(&partition);
            self.ended.push(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_ends_with_its_last_record_or_past_it() {
        let mut ends = Ends { open: BTreeMap::from([(0, 3), (1, 2), (2, 5)]), ended: Vec::new() };
        assert!(ends.wants(0, 1));
        assert!(ends.wants(0, 2));
        assert!(!ends.wants(0, 3), "written after the scan was opened");
        // The last offset is a transaction marker or was compacted away: only the end of the partition tells.
        assert!(ends.wants(1, 0));
        ends.reached(1, 2);
        ends.reached(2, 4);
        assert_eq!(ends.open, BTreeMap::from([(2, 5)]));
        assert!(!ends.wants(2, 9), "a gap that spans the end");
        assert!(ends.open.is_empty());
        assert_eq!(ends.ended, [0, 1, 2]);
    }
}
