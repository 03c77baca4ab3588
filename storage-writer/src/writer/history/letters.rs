//! Records that are no alerts go to the storage-failures topic, in one Kafka transaction with the offsets of the batch
//! they were in: so each is there exactly once.

use std::sync::Arc;
use std::time::Instant;

use penstock_kafka::{Consumer, DeliveryError, Outbox, OwnedRecord, Parcel, Sent, TransactionError};
use penstock_proto::Reason;
use penstock_service::backoff::Backoff;
use penstock_service::condition::Condition;

use super::batch::Batch;
use super::partitions::Partitions;
use crate::metrics::Metrics;
use crate::writer::letters::Letters;

/// What has come of a batch's letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    /// Not through yet.
    Waiting,
    /// There is nothing to be sent: offsets are committed as usual.
    Nothing,
    /// Letters and offsets are committed.
    Committed,
    /// Letters and offsets are committed, or neither; that cannot change any more, and the committed offsets say which.
    Doubt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Sent,
    /// The end of a transaction is not known: its producer is to be replaced.
    Unsure,
    Settling,
}

/// Sends the letters of one batch at a time.
#[derive(Debug)]
pub(super) struct Post {
    letters_topic: Arc<str>,
    outbox: Outbox,
    metrics: Metrics,
    condition: Condition,
    backoff: Backoff,
    retry_at: Option<Instant>,
    stage: Stage,
    /// Why the letters under way are some.
    reasons: Vec<Reason>,
    /// Letters go without their payloads: the topic does not take them.
    short: bool,
}

impl Post {
    pub(super) fn new(letters_topic: Arc<str>, outbox: Outbox, metrics: Metrics, backoff: Backoff) -> Self {
        Self {
            letters_topic,
            outbox,
            metrics,
            condition: Condition::new("storing records that are no alerts in the storage-failures topic"),
            backoff,
            retry_at: None,
            stage: Stage::Idle,
            reasons: Vec::new(),
            short: false,
        }
    }

    /// Whether a transaction may change committed offsets: nothing else must commit then.
    pub(super) fn is_under_way(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// Goes on with the letters of `batch`.
    ///
    /// # Errors
    /// The thread that sends them cannot be started.
    pub(super) fn drive(
        &mut self,
        batch: &Batch,
        consumer: &Consumer,
        partitions: &Partitions,
        now: Instant,
    ) -> Result<Posted, std::io::Error> {
        if self.outbox.is_under_way() {
            return Ok(self.outbox.ended().map_or(Posted::Waiting, |sent| self.ended(sent, now)));
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return Ok(Posted::Waiting);
        }
        if self.stage == Stage::Unsure {
            self.outbox.settle()?;
            self.stage = Stage::Settling;
            return Ok(Posted::Waiting);
        }
        self.begin(batch, consumer, partitions)
    }

    fn begin(
        &mut self,
        batch: &Batch,
        consumer: &Consumer,
        partitions: &Partitions,
    ) -> Result<Posted, std::io::Error> {
        let ours = |letter: &&super::batch::Letter| partitions.is_current(&letter.partition, letter.epoch);
        let letters: Vec<_> = batch.letters.iter().filter(ours).collect();
        if letters.is_empty() {
            return Ok(Posted::Nothing);
        }
        // An older commit that arrives late must not overwrite what the transaction commits.
        let (0, Some(member)) = (consumer.commits_in_flight(), consumer.group_metadata()) else {
            return Ok(Posted::Waiting);
        };
        let write = |letter: &&super::batch::Letter| -> Arc<OwnedRecord> {
            let source_topic = Arc::clone(&letter.partition.topic);
            let letters = Letters { topic: Arc::clone(&self.letters_topic), source_topic };
            Arc::new(letters.write(&letter.refused, !self.short))
        };
        let records = letters.iter().map(write).collect();
        self.reasons = letters.iter().map(|letter| letter.refused.invalid.reason).collect();
        self.outbox.send(Parcel { records, next: partitions.still(&batch.next), member })?;
        self.stage = Stage::Sent;
        Ok(Posted::Waiting)
    }

    fn ended(&mut self, sent: Sent, now: Instant) -> Posted {
        let error = match sent {
            Sent::Committed => {
                self.reasons.drain(..).for_each(|reason| self.metrics.storage_failure(reason));
                self.works();
                self.short = false;
                return Posted::Committed;
            }
            Sent::Settled => {
                self.works();
                return Posted::Doubt;
            }
            Sent::Failed(error) => {
                self.stage = Stage::Idle;
                error
            }
            Sent::Unsure(error) => {
                self.stage = Stage::Unsure;
                error
            }
        };
        if let TransactionError::Abortable { delivery: Some(DeliveryError::TooLarge), .. }
        | TransactionError::Record(DeliveryError::TooLarge) = &error
        {
            self.short = true;
        }
        self.condition.failed("transaction", false, &error);
        self.metrics.storage_failures_retried();
        self.retry_at = Some(now + self.backoff.next());
        Posted::Waiting
    }

    fn works(&mut self) {
        self.stage = Stage::Idle;
        self.retry_at = None;
        self.condition.worked();
        self.backoff.reset();
    }
}
