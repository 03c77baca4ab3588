//! What happens between the assignment of a partition and its first record: its former owner's transactions are waited
//! for, and the state topic is read to its end.
//!
//! Runs beside the consumer's thread, which meanwhile goes on with the partitions it has. Tries until it is done, or the
//! assignment is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use penstock_kafka::{ClientSettings, GroupObserver, KafkaError, ScanFrom, Scanner, TopicPartition};
use penstock_proto::DeviceId;
use penstock_service::backoff::Backoff;
use penstock_service::condition::Condition;
use tokio_util::sync::CancellationToken;

use super::TRANSACTION_TIMEOUT;
use super::live::Epoch;
use super::record::{Saved, Topics};
use crate::engine::{Engine, Raised};
use crate::rules::RuleSet;

/// How long Kafka may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Kafka looks for transactions whose time is over every 10 s. What is open for longer than that is not: a broker that is
/// shut down at the wrong moment can complete a transaction and leave its offsets undecided for ever.
const UNDECIDED_MAX: Duration = TRANSACTION_TIMEOUT.saturating_add(Duration::from_secs(15));
/// Records of the state topic looked at in one go.
const RECORDS_MAX: usize = 10_000;

/// A partition that was assigned and is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) partition: i32,
    pub(super) epoch: Epoch,
}

/// A partition that may be read.
pub(super) struct Restored {
    pub(super) closed: Closed,
    pub(super) engine: Engine,
    /// What came of restoring it: episodes of rules that are gone.
    pub(super) raised: Vec<Raised>,
    /// From where its readings are to be read; `None` if nothing of it was ever saved.
    pub(super) from: Option<i64>,
    /// States that cannot be read.
    pub(super) unreadable: u64,
}

/// Restores partitions.
#[derive(Clone, Debug)]
pub(super) struct Restorer {
    pub(super) client: ClientSettings,
    pub(super) group: String,
    pub(super) topics: Topics,
    pub(super) backoff_ms: (u64, u64),
}

/// What is saved of a partition.
#[derive(Debug, Default)]
struct Found {
    states: BTreeMap<DeviceId, Vec<u8>>,
    from: Option<i64>,
}

impl Restorer {
    /// Restores these partitions one after another, on the calling thread, until `cancel`.
    pub(super) fn run(
        &self,
        closed: &[Closed],
        rules: &Arc<RuleSet>,
        cancel: &CancellationToken,
        restored: &SyncSender<Restored>,
    ) {
        let condition = Condition::new("reading saved state of alerts");
        let mut backoff = Backoff::new(self.backoff_ms.0, self.backoff_ms.1);
        let (mut undecided_since, mut held_since) = (None, None);
        while !cancel.is_cancelled() {
            match self.attempt(closed, (&mut undecided_since, &mut held_since), cancel) {
                Ok(Some(mut found)) => {
                    condition.worked();
                    for closed in closed {
                        let found = found.remove(&closed.partition).unwrap_or_default();
                        if cancel.is_cancelled() || restored.send(build(*closed, found, rules)).is_err() {
                            return;
                        }
                    }
                    return;
                }
                Ok(None) => {}
                Err(error) => condition.failed("unreadable", false, &error),
            }
            std::thread::sleep(backoff.next());
        }
    }

    /// `None` if it has to be tried again.
    fn attempt(
        &self,
        closed: &[Closed],
        (undecided_since, held_since): (&mut Option<Instant>, &mut Option<Instant>),
        cancel: &CancellationToken,
    ) -> Result<Option<BTreeMap<i32, Found>>, KafkaError> {
        if !self.is_settled(closed, undecided_since)? || !self.is_readable(closed, held_since)? {
            return Ok(None);
        }
        self.scan(closed, cancel)
    }

    /// Whether no transaction of a former owner can change what is saved. One that has sent its offsets is waited for;
    /// one that has not is refused when it does.
    fn is_settled(
        &self,
        closed: &[Closed],
        undecided_since: &mut Option<Instant>,
    ) -> Result<bool, KafkaError> {
        let named: Vec<TopicPartition> = closed
            .iter()
            .map(|closed| TopicPartition::new(Arc::clone(&self.topics.readings), closed.partition))
            .collect();
        let Err(error) = GroupObserver::new(&self.client, &self.group, true)?.committed(&named, TIMEOUT)
        else {
            return Ok(true);
        };
        // Kafka is away, or it answers and only does not tell.
        if let Err(error) = GroupObserver::new(&self.client, &self.group, false)?.committed(&named, TIMEOUT) {
            *undecided_since = None;
            return Err(error);
        }
        let since = *undecided_since.get_or_insert_with(|| {
            tracing::info!("a transaction of alerts is still open; waiting for its end: {error}");
            Instant::now()
        });
        if since.elapsed() < UNDECIDED_MAX {
            return Ok(false);
        }
        tracing::warn!("Kafka has left it undecided what is committed; what is saved decides");
        Ok(true)
    }

    /// Whether everything that was written can be read. What a former owner has committed is there only once Kafka has
    /// written that into the partition, which is a moment later: until then it must not be taken for missing.
    fn is_readable(&self, closed: &[Closed], held_since: &mut Option<Instant>) -> Result<bool, KafkaError> {
        let written = GroupObserver::new(&self.client, &self.group, false)?;
        let readable = GroupObserver::new(&self.client, &self.group, true)?;
        for Closed { partition, .. } in closed {
            let named = TopicPartition::new(Arc::clone(&self.topics.state), *partition);
            let (_, end) = written.watermarks(&named, TIMEOUT)?;
            let (_, readable_to) = readable.watermarks(&named, TIMEOUT)?;
            if readable_to >= end {
                continue;
            }
            let since = *held_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= UNDECIDED_MAX {
                tracing::error!(
                    %named,
                    from = readable_to,
                    "an open transaction holds back what is saved: no alerts of these partitions until it ends; if nobody \
                     will end it, end it with kafka-transactions.sh (docs/OPERATIONS.md, hanging transactions)"
                );
                *held_since = Some(Instant::now());
            }
            return Ok(false);
        }
        *held_since = None;
        Ok(true)
    }

    /// Reads what is saved, to the end that the topic has now.
    fn scan(
        &self,
        closed: &[Closed],
        cancel: &CancellationToken,
    ) -> Result<Option<BTreeMap<i32, Found>>, KafkaError> {
        let from = ScanFrom::Offsets(closed.iter().map(|closed| (closed.partition, 0)).collect());
        let mut scanner = Scanner::open(&self.client, &self.topics.state, &from, true)?;
        let mut found: BTreeMap<i32, Found> = BTreeMap::new();
        while let Some(batch) = scanner.next_batch(RECORDS_MAX, TIMEOUT)? {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            for record in &batch {
                let found = found.entry(record.partition).or_default();
                let value = (!record.is_tombstone).then_some(record.payload);
                match Saved::read(record.key, value) {
                    Saved::Device(device, Some(state)) => {
                        found.states.insert(device, state.to_vec());
                    }
                    Saved::Device(device, None) => drop(found.states.remove(&device)),
                    Saved::Mark(from) => found.from = Some(from),
                    Saved::Unknown => tracing::warn!(
                        partition = record.partition,
                        offset = record.offset,
                        "a record of the state topic is not this version's, and is passed over"
                    ),
                }
            }
        }
        Ok(Some(found))
    }
}

fn build(closed: Closed, found: Found, rules: &Arc<RuleSet>) -> Restored {
    let mut engine = Engine::new(Arc::clone(rules), closed.partition);
    let (mut raised, mut unreadable) = (Vec::new(), 0);
    for (device, state) in found.states {
        if let Err(error) = engine.restore(device, &state, &mut raised) {
            unreadable += 1;
            tracing::error!(%device, partition = closed.partition, "the saved state of a device cannot be read, it begins anew: {error}");
        }
    }
    Restored { closed, engine, raised, from: found.from, unreadable }
}
