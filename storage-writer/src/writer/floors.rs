//! From where partitions are to be read: the committed offsets, as Kafka tells them; and what is to be done when it does
//! not tell, although it is well.
//!
//! Offsets that an open transaction may still change are not told until it has ended, which is at most
//! [`super::letters::TRANSACTION_TIMEOUT`] later. But a broker that is shut down at the wrong moment can complete a
//! transaction and leave its offsets undecided for ever (seen with Kafka 4.3). Long after every transaction must have
//! ended, the offsets that were decided are taken, and the dead letters above them are read from their topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_kafka::{ClientSettings, GroupObserver, KafkaError, ScanFrom, Scanner, TopicPartition};
use penstock_proto::topics::header;
use penstock_service::backoff::Backoff;

use super::letters::TRANSACTION_TIMEOUT;
use crate::stored::OffsetSet;

/// How long Kafka may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The same for one partition of many.
const TIMEOUT_EACH: Duration = Duration::from_millis(500);
/// The coordinator looks for transactions whose time is over every 10 s.
const UNDECIDED_AFTER: Duration = TRANSACTION_TIMEOUT.saturating_add(Duration::from_secs(15));
/// Records of the dead-letter topic looked at in one go.
const RECORDS_MAX: usize = 1_000;

/// From where a partition is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Floor {
    /// The committed offset; `None` if none was ever committed.
    pub(super) offset: Option<i64>,
    /// Offsets above it that are dead letters already. Empty unless Kafka left it undecided what is committed.
    pub(super) letters: OffsetSet,
}

/// Asks about the writers' group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) client: ClientSettings,
    pub(super) name: String,
    /// The topic with readings.
    pub(super) topic: Arc<str>,
    /// The topic with dead letters.
    pub(super) letters_topic: Arc<str>,
}

impl Group {
    /// The floors of these partitions. Asks until Kafka has told them; drop it to give up.
    pub(super) async fn floors(
        self: &Arc<Self>,
        partitions: &[u16],
        mut backoff: Backoff,
    ) -> BTreeMap<u16, Floor> {
        let mut undecided_since = None;
        loop {
            let (group, partitions) = (Arc::clone(self), partitions.to_vec());
            let undecided = undecided_since.is_some_and(|since: Instant| since.elapsed() >= UNDECIDED_AFTER);
            let asked = tokio::task::spawn_blocking(move || group.ask(&partitions, undecided)).await;
            match asked {
                Ok(Ok(Asked::Floors(floors))) => return floors,
                Ok(Ok(Asked::Undecided(error))) => {
                    if undecided_since.is_none() {
                        tracing::info!(
                            "a transaction may still change what is committed; waiting for its end: {error}"
                        );
                    }
                    undecided_since.get_or_insert_with(Instant::now);
                }
                Ok(Err(error)) => {
                    tracing::info!("it is not known yet what is committed: {error}");
                    undecided_since = None;
                }
                Err(panicked) => {
                    tracing::error!("asking what is committed ended without a result: {panicked}")
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Blocks.
    fn ask(&self, partitions: &[u16], undecided: bool) -> Result<Asked, KafkaError> {
        let named: Vec<TopicPartition> = partitions.iter().map(|partition| self.named(*partition)).collect();
        let stable = GroupObserver::new(&self.client, &self.name, true)?;
        let error = match stable.committed(&named, TIMEOUT) {
            Ok(committed) => return Ok(Asked::Floors(floors(committed))),
            Err(error) => error,
        };
        // Kafka is away, or it answers and only does not tell.
        let decided = GroupObserver::new(&self.client, &self.name, false)?.committed(&named, TIMEOUT)?;
        if !undecided {
            return Ok(Asked::Undecided(error));
        }
        let mut told = BTreeMap::new();
        let mut open = BTreeMap::new();
        for (partition, offset) in decided {
            match stable.committed(std::slice::from_ref(&partition), TIMEOUT_EACH) {
                Ok(committed) => told.extend(floors(committed)),
                Err(_) => drop(open.insert(partition.partition, offset)),
            }
        }
        tracing::warn!(
            partitions = ?open.keys().collect::<Vec<_>>(),
            "Kafka has left it undecided what is committed; what was decided is taken, dead letters above it are looked for"
        );
        let mut letters = self.letters(&open)?;
        for (number, offset) in open {
            let Ok(partition) = u16::try_from(number) else { continue };
            told.insert(partition, Floor { offset, letters: letters.remove(&partition).unwrap_or_default() });
        }
        Ok(Asked::Floors(told))
    }

    /// The source offsets of dead letters, of these partitions at or above these offsets.
    fn letters(&self, above: &BTreeMap<i32, Option<i64>>) -> Result<BTreeMap<u16, OffsetSet>, KafkaError> {
        let mut found: BTreeMap<u16, OffsetSet> = BTreeMap::new();
        let mut scanner = Scanner::open(&self.client, &self.letters_topic, &ScanFrom::Beginning, true)?;
        while let Some(batch) = scanner.next_batch(RECORDS_MAX, TIMEOUT)? {
            for record in &batch {
                let (mut topic, mut partition, mut offset) = (None, None, None);
                for (name, value) in record.headers() {
                    match name {
                        header::SOURCE_TOPIC => topic = Some(value),
                        header::SOURCE_PARTITION => partition = number(value),
                        header::SOURCE_OFFSET => offset = number(value),
                        _ => {}
                    }
                }
                let (Some(partition), Some(offset)) = (partition, offset) else { continue };
                let Some(floor) = i32::try_from(partition).ok().and_then(|partition| above.get(&partition))
                else {
                    continue;
                };
                let floor = floor.unwrap_or(0).max(0).cast_unsigned();
                if topic == Some(self.topic.as_bytes())
                    && offset >= floor
                    && let Ok(partition) = u16::try_from(partition)
                {
                    found.entry(partition).or_default().insert(offset, offset + 1);
                }
            }
        }
        Ok(found)
    }

    fn named(&self, partition: u16) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), partition.into())
    }
}

enum Asked {
    Floors(BTreeMap<u16, Floor>),
    /// Kafka answers, but a transaction may still change some of them.
    Undecided(KafkaError),
}

fn floors(committed: Vec<(TopicPartition, Option<i64>)>) -> BTreeMap<u16, Floor> {
    let floor = |(partition, offset): (TopicPartition, Option<i64>)| {
        let floor = Floor { offset, letters: OffsetSet::default() };
        Some((u16::try_from(partition.partition).ok()?, floor))
    };
    committed.into_iter().filter_map(floor).collect()
}

/// A number in a header: decimal digits.
fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
