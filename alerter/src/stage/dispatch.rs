//! One transaction after another: what waits in the partitions, and what follows from how it ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use penstock_kafka::{Consumer, Outbox, Parcel, Sent, TopicPartition, TransactionError};
use penstock_service::backoff::Backoff;
use penstock_service::condition::Condition;

use super::live::{Cut, Live};
use super::record::Topics;
use crate::metrics::Metrics;

/// Partitions that are being read.
pub(super) type Lives = BTreeMap<i32, Live>;

/// What is under way, and the next attempt at it.
pub(super) struct Dispatch {
    outbox: Outbox,
    topics: Topics,
    metrics: Metrics,
    condition: Condition,
    backoff: Backoff,
    /// In a transaction that is under way, or to be made again.
    cuts: BTreeMap<i32, Cut>,
    /// Whether it is not known how the transaction ended.
    unsure: bool,
    retry_at: Option<Instant>,
    began: Instant,
}

impl Dispatch {
    pub(super) fn new(outbox: Outbox, topics: Topics, metrics: Metrics, backoff: Backoff) -> Self {
        Self {
            outbox,
            topics,
            metrics,
            condition: Condition::new("storing alerts in Kafka"),
            backoff,
            cuts: BTreeMap::new(),
            unsure: false,
            retry_at: None,
            began: Instant::now(),
        }
    }

    /// Whether Kafka may be changing what is saved.
    pub(super) const fn is_under_way(&self) -> bool {
        self.outbox.is_under_way() || self.unsure
    }

    /// Whether records of the partition are on their way, or to be sent again.
    pub(super) fn holds(&self, partition: i32) -> bool {
        self.cuts.contains_key(&partition)
    }

    /// Takes note of a transaction that ended, and begins the next. Returns partitions that have to be restored: it
    /// cannot be known what of them was saved but by reading it.
    pub(super) fn drive(
        &mut self,
        lives: &mut Lives,
        consumer: &Consumer,
        now: Instant,
    ) -> Result<Vec<i32>, std::io::Error> {
        let mut to_restore = Vec::new();
        match self.outbox.ended() {
            None if self.outbox.is_under_way() => return Ok(to_restore),
            None => {}
            Some(Sent::Committed) => self.committed(),
            Some(Sent::Failed(error)) => self.failed(&error, now),
            Some(Sent::Unsure(error)) => {
                self.unsure = true;
                self.failed(&error, now);
            }
            Some(Sent::Settled) => {
                self.unsure = false;
                self.backoff.reset();
                let cuts = std::mem::take(&mut self.cuts);
                let is_current = |(partition, cut): &(i32, Cut)| {
                    lives.get(partition).is_some_and(|live| live.epoch() == cut.epoch)
                };
                to_restore.extend(cuts.into_iter().filter(is_current).map(|(partition, _)| partition));
                self.retry_at = None;
            }
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return Ok(to_restore);
        }
        if self.unsure {
            self.outbox.settle()?;
        } else {
            self.begin(lives, consumer, &to_restore, now)?;
        }
        Ok(to_restore)
    }

    fn begin(
        &mut self,
        lives: &mut Lives,
        consumer: &Consumer,
        but: &[i32],
        now: Instant,
    ) -> Result<(), std::io::Error> {
        // What is to be made again may have moved meanwhile: then it is another alerter's.
        self.cuts.retain(|partition, cut| lives.get(partition).is_some_and(|live| live.epoch() == cut.epoch));
        if self.cuts.is_empty() {
            for (partition, live) in lives.iter_mut() {
                if live.is_due(now) && !but.contains(partition) {
                    self.cuts.insert(*partition, live.cut(&self.topics, now));
                }
            }
        }
        let (false, Some(member)) = (self.cuts.is_empty(), consumer.group_metadata()) else { return Ok(()) };
        let named = |partition: &i32| TopicPartition::new(Arc::clone(&self.topics.readings), *partition);
        let next = self.cuts.iter().map(|(partition, cut)| (named(partition), cut.next)).collect();
        let records = self.cuts.values().flat_map(|cut| cut.records.iter().cloned()).collect();
        self.began = now;
        self.outbox.send(Parcel { records, next, member })
    }

    fn committed(&mut self) {
        self.condition.worked();
        self.backoff.reset();
        self.retry_at = None;
        let cuts = std::mem::take(&mut self.cuts);
        let records = cuts.values().map(|cut| cut.records.len()).sum();
        self.metrics.committed(records, self.began.elapsed().as_secs_f64());
        for cut in cuts.into_values() {
            cut.raised.iter().for_each(|raised| self.metrics.raised(&raised.alert));
            if cut.marks {
                self.metrics.checkpointed();
            }
        }
    }

    fn failed(&mut self, error: &TransactionError, now: Instant) {
        self.condition.failed(error.kind(), false, error);
        self.metrics.transaction_failed(error.kind());
        self.retry_at = Some(now + self.backoff.next());
    }
}
